// For x86-64 with AVX-512 F, DQ, BW and VL; the build passes the options for this file.
#if defined(__x86_64__)
#define MTACLIP_ISA avx512
#define MTACLIP_VECTOR_BYTES 64
#include "kernels.h"

namespace mtaclip {
Kernels avx512_kernels() { return avx512::kernels(); }
}  // namespace mtaclip
#endif

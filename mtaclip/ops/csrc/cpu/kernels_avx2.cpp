// For x86-64 with AVX2 and FMA; the build passes -mavx2 -mfma for this file.
#if defined(__x86_64__)
#define MTACLIP_ISA avx2
#define MTACLIP_VECTOR_BYTES 32
#include "kernels.h"

namespace mtaclip {
Kernels avx2_kernels() { return avx2::kernels(); }
}  // namespace mtaclip
#endif

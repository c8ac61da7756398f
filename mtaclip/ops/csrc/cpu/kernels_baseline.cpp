// For every processor the compiler's defaults allow: SSE2 on x86-64, NEON on 64-bit ARM.
#define MTACLIP_ISA baseline
#define MTACLIP_VECTOR_BYTES 16
#include "kernels.h"

namespace mtaclip {
Kernels baseline_kernels() { return baseline::kernels(); }
}  // namespace mtaclip

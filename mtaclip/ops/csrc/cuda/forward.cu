// The forward kernels.
#include "dispatch.cuh"
#include "launch.h"
#include "stream.cuh"

namespace mtaclip::cuda {

Outcome run_forward(Problem& p, cudaStream_t stream) {
  Outcome outcome{nullptr, cudaSuccess};
  const OnStream launch{stream, outcome.error};
  outcome.refusal = with_kernels(p, [&](auto kernels) { return kernels.run_forward(p, launch); });
  return outcome;
}

}  // namespace mtaclip::cuda

// What the operators call: kernels on a stream. Kept apart from the kernels, so that no file has to compile both them
// and PyTorch's headers.
#pragma once

#include <cuda_runtime_api.h>

#include "problem.h"

namespace mtaclip::cuda {

struct Outcome {
  const char* refusal;  // why the kernels do not take the problem, or null
  cudaError_t error;    // of the first launch that failed
};

Outcome run_forward(Problem& p, cudaStream_t stream);
Outcome run_backward(Problem& p, cudaStream_t stream);

}  // namespace mtaclip::cuda

// Starts kernels on a stream and remembers the first error; nothing is started after one.
#pragma once

#include <cuda_runtime.h>

namespace mtaclip::cuda {

struct OnStream {
  cudaStream_t stream;
  cudaError_t& error;

  template <class... Parameters, class... Arguments>
  void operator()(void (*kernel)(Parameters...), dim3 blocks, int threads, int shared_bytes,
                  Arguments... arguments) const {
    if (error != cudaSuccess) return;
    kernel<<<blocks, threads, shared_bytes, stream>>>(arguments...);
    error = cudaGetLastError();
  }
};

}  // namespace mtaclip::cuda

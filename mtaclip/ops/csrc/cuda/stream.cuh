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
    if (shared_bytes > 0) divide_memory(kernel, threads, shared_bytes);
    if (error != cudaSuccess) return;
    kernel<<<blocks, threads, shared_bytes, stream>>>(arguments...);
    error = cudaGetLastError();
  }

 private:
  // Ask for as much shared memory as the blocks need that a multiprocessor can run together, and leave the rest to its
  // cache. By itself the division of an earlier kernel may stay, even if only one block fits.
  template <class Kernel>
  void divide_memory(Kernel* kernel, int threads, int shared_bytes) const {
    constexpr int kReserved = 1024;  // of every block, by CUDA
    int device = 0, bytes = 0, together = 0;
    const auto check = [&](cudaError_t status) { error = error == cudaSuccess ? status : error; };
    check(cudaGetDevice(&device));
    check(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerMultiprocessor, device));
    check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&together, kernel, threads, shared_bytes));
    if (error != cudaSuccess) return;
    const int percent = (100 * together * (shared_bytes + kReserved) + bytes - 1) / bytes;
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, percent));
  }
};

}  // namespace mtaclip::cuda

// What bounds deformable attention on a GPU: reading random rows, and adding to random rows, in GB/s.
//
//     nvcc -O3 -std=c++17 -arch=native -o build/gpu_rates benchmarks/gpu_rates.cu && build/gpu_rates
//
// Prints JSON. "read": groups of lanes read whole rows of 64 or 128 bytes with 16-byte loads, from a set that fits the
// L1 cache of one SM, that fits the L2 cache, or that fits neither. "add": float32 additions to global memory without a
// result, one, two or four numbers per instruction, to random rows of 128 bytes or to few hot ones.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#define CHECK(call)                                                                        \
  do {                                                                                     \
    const cudaError_t status = (call);                                                     \
    if (status != cudaSuccess) {                                                           \
      std::fprintf(stderr, "%s: %s\n", #call, cudaGetErrorString(status));                 \
      std::exit(1);                                                                        \
    }                                                                                      \
  } while (0)

constexpr int kThreads = 256, kRowsPerGroup = 64, kRepeats = 20;

__device__ uint32_t next_random(uint32_t& state) {
  state ^= state << 13;
  state ^= state >> 17;
  return state ^= state << 5;
}

template <int kLanes>  // of 16 bytes each
__global__ void read_rows(const uint4* rows, uint32_t count, uint32_t* sink) {
  const uint32_t group = (blockIdx.x * kThreads + threadIdx.x) / kLanes, lane = threadIdx.x % kLanes;
  uint32_t state = group * 2654435761u + 1u, sum = 0;
#pragma unroll 8
  for (int i = 0; i < kRowsPerGroup; ++i) {
    const uint4 part = __ldg(rows + static_cast<size_t>(next_random(state) % count) * kLanes + lane);
    sum += part.x ^ part.y ^ part.z ^ part.w;
  }
  if (sum == 0x12345678u) *sink = sum;  // keeps the loads
}

template <int kNumbers>
__device__ void add(float* to) {
#if __CUDA_ARCH__ >= 900
  if constexpr (kNumbers == 4) {
    asm volatile("red.global.add.v4.f32 [%0], {%1, %1, %1, %1};" ::"l"(to), "f"(1.0f) : "memory");
  } else if constexpr (kNumbers == 2) {
    asm volatile("red.global.add.v2.f32 [%0], {%1, %1};" ::"l"(to), "f"(1.0f) : "memory");
  } else {
    atomicAdd(to, 1.0f);
  }
#else
  for (int i = 0; i < kNumbers; ++i) atomicAdd(to + i, 1.0f);
#endif
}

template <int kNumbers>  // per instruction; a group of lanes adds to a whole row of 32 numbers
__global__ void add_rows(float* rows, uint32_t count) {
  constexpr int kLanes = 32 / kNumbers;
  const uint32_t group = (blockIdx.x * kThreads + threadIdx.x) / kLanes, lane = threadIdx.x % kLanes;
  uint32_t state = group * 2654435761u + 1u;
  for (int i = 0; i < kRowsPerGroup; ++i) {
    add<kNumbers>(rows + static_cast<size_t>(next_random(state) % count) * 32 + lane * kNumbers);
  }
}

// Median GB/s of `launch`, which moves `bytes`.
template <class F>
double rate(double bytes, const F& launch) {
  std::vector<float> taken;
  cudaEvent_t begin, end;
  CHECK(cudaEventCreate(&begin));
  CHECK(cudaEventCreate(&end));
  for (int i = 0; i < kRepeats + 2; ++i) {
    CHECK(cudaEventRecord(begin));
    launch();
    CHECK(cudaEventRecord(end));
    CHECK(cudaEventSynchronize(end));
    CHECK(cudaGetLastError());
    float milliseconds = 0;
    CHECK(cudaEventElapsedTime(&milliseconds, begin, end));
    if (i >= 2) taken.push_back(milliseconds);
  }
  CHECK(cudaEventDestroy(begin));
  CHECK(cudaEventDestroy(end));
  std::sort(taken.begin(), taken.end());
  return bytes / (taken[taken.size() / 2] * 1e6);
}

int main() {
  cudaDeviceProp device{};
  CHECK(cudaGetDeviceProperties(&device, 0));
  const size_t largest = size_t{1} << 30;
  void* memory = nullptr;
  CHECK(cudaMalloc(&memory, largest));
  CHECK(cudaMemset(memory, 0, largest));
  uint32_t* sink = nullptr;
  CHECK(cudaMalloc(reinterpret_cast<void**>(&sink), sizeof(*sink)));
  const int blocks = device.multiProcessorCount * 64;
  std::printf("{\"gpu\": \"%s\", \"multiprocessors\": %d, \"l2_mb\": %.0f,\n", device.name, device.multiProcessorCount,
              device.l2CacheSize / 1e6);
  const double threads = static_cast<double>(blocks) * kThreads;
  const struct {
    const char* name;
    size_t bytes;
  } sets[] = {{"l1", size_t{64} << 10}, {"l2", size_t{22} << 20}, {"memory", largest}};
  for (const auto& set : sets) {
    const double bytes = threads * 16 * kRowsPerGroup;
    const double narrow = rate(bytes, [&] {
      read_rows<4><<<blocks, kThreads>>>(static_cast<uint4*>(memory), static_cast<uint32_t>(set.bytes / 64), sink);
    });
    const double wide = rate(bytes, [&] {
      read_rows<8><<<blocks, kThreads>>>(static_cast<uint4*>(memory), static_cast<uint32_t>(set.bytes / 128), sink);
    });
    std::printf(" \"read_%s_gb_s\": {\"rows_of_64\": %.0f, \"rows_of_128\": %.0f},\n", set.name, narrow, wide);
  }
  const struct {
    const char* name;
    uint32_t rows;
  } targets[] = {{"random", 8u * 5376 * 8}, {"hot", 64}};
  for (const auto& target : targets) {
    float* rows = static_cast<float*>(memory);
    const double one = rate(threads * 4 * kRowsPerGroup, [&] { add_rows<1><<<blocks, kThreads>>>(rows, target.rows); });
    const double two = rate(threads * 8 * kRowsPerGroup, [&] { add_rows<2><<<blocks, kThreads>>>(rows, target.rows); });
    const double four =
        rate(threads * 16 * kRowsPerGroup, [&] { add_rows<4><<<blocks, kThreads>>>(rows, target.rows); });
    std::printf(" \"add_%s_gb_s\": {\"float1\": %.0f, \"float2\": %.0f, \"float4\": %.0f}%s\n", target.name, one, two,
                four, target.rows == 64 ? "}" : ",");
  }
  CHECK(cudaFree(memory));
  CHECK(cudaFree(sink));
  return 0;
}

// The value's gradient, to which many groups add at once: in floating point, or in integers, whose bits do not depend
// on the order of additions.
//
// The integers count a power of two, the quantum. With |grad| <= g and |weight| <= w (1 for a softmax), a pixel's sum
// has at most N * P terms of at most g * w; with g < 2^a, w < 2^b, N * P <= 2^c it stays below 2^62 quanta of
// 2^(a + b + c - 62). A term is rounded to half a quantum: with N * P = 2^18, an error below g * w * 2^-42, far less
// than a float's own. The bounds are found on the GPU. If one of them or a term that counts is not finite, the whole
// gradient is NaN: integers have no other way to say so.
#pragma once

#include <cstring>

#include "device.cuh"
#include "problem.h"

namespace mtaclip::cuda {

template <class T>
struct FloatSums {
  using Sum = T;

  __device__ __forceinline__ explicit FloatSums(const Problem&) {}

  __device__ __forceinline__ void add(T* to, const Vector<T, 1>& x) const { atomicAdd(to, x.at[0]); }

  // Four neighbours on a 16-byte boundary: one instruction from compute capability 9.0 on.
  __device__ __forceinline__ void add(T* to, const Vector<T, 4>& x) const {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    atomicAdd(reinterpret_cast<float4*>(to), make_float4(x.at[0], x.at[1], x.at[2], x.at[3]));
#else
#pragma unroll
    for (int j = 0; j < 4; ++j) atomicAdd(to + j, x.at[j]);
#endif
  }
};

__device__ __forceinline__ unsigned long long magnitude_bits(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof(bits));
  return bits & 0x7fffffffu;
}
__device__ __forceinline__ unsigned long long magnitude_bits(double x) {
  unsigned long long bits;
  memcpy(&bits, &x, sizeof(bits));
  return bits & 0x7fffffffffffffffull;
}

template <class T>
struct FixedSums {
  static constexpr int kMantissa = std::is_same_v<T, double> ? 52 : 23;
  static constexpr int kBias = std::is_same_v<T, double> ? 1023 : 127;
  using Sum = unsigned long long;
  unsigned long long* poisoned;
  int exponent;  // 2^exponent quanta are 1
  T half, rest;  // two numbers whose product that is: it may be none itself

  __device__ __forceinline__ explicit FixedSums(const Problem& p) : poisoned(&p.bounds->poisoned) {
    int terms = 0;
    while ((int64_t{1} << terms) < static_cast<int64_t>(p.queries) * p.points) ++terms;
    const int weight = p.fused ? 1 : exponent_above(p.bounds->weight);
    exponent = 62 - exponent_above(p.bounds->grad) - weight - terms;
    exponent = min(max(exponent, 2 - 2 * kBias), 2 * kBias - 2);
    half = ldexp(T(1), exponent / 2);
    rest = ldexp(T(1), exponent - exponent / 2);
  }

  // a such that a magnitude of these bits is below 2^a, if it is finite.
  static __device__ __forceinline__ int exponent_above(unsigned long long bits) {
    return static_cast<int>(bits >> kMantissa) - kBias + 1;
  }
  static __device__ __forceinline__ bool finite(unsigned long long bits) {
    return static_cast<int>(bits >> kMantissa) <= 2 * kBias;
  }

  template <int N>
  __device__ __forceinline__ void add(Sum* to, const Vector<T, N>& x) const {
#pragma unroll
    for (int j = 0; j < N; ++j) {
      if (finite(magnitude_bits(x.at[j]))) {
        const long long counted = static_cast<long long>(rint(x.at[j] * half * rest));
        atomicAdd(to + j, static_cast<Sum>(counted));
      } else {
        *poisoned = 1;
      }
    }
  }

  __device__ __forceinline__ bool lost(const Problem& p) const {
    return *poisoned != 0 || !finite(p.bounds->grad) || !finite(p.bounds->weight);
  }
};

template <class F>
__device__ __forceinline__ void for_each(int64_t n, const F& body) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += step) body(i);
}

// The bits of the largest |x|; a NaN is larger than all numbers.
template <class V>
__global__ void __launch_bounds__(kForwardThreads) largest_magnitude(const V* x, int64_t n, unsigned long long* to) {
  unsigned long long bits = 0;
  for_each(n, [&](int64_t i) { bits = max(bits, magnitude_bits(widen(x[i]))); });
#pragma unroll
  for (int step = 1; step < 32; step *= 2) bits = max(bits, __shfl_xor_sync(kAllLanes, bits, step));
  if (threadIdx.x % 32 == 0) atomicMax(to, bits);
}

// From fixed-point sums to the gradient.
template <class V>
__global__ void __launch_bounds__(kForwardThreads) from_fixed_point(const __grid_constant__ Problem p, int64_t n) {
  using T = Precise<V>;
  const FixedSums<T> sums(p);
  const long long* from = static_cast<const long long*>(p.sums);
  V* to = static_cast<V*>(p.grad_value);
  const T half = sums.lost(p) ? static_cast<T>(NAN) : 1 / sums.half, rest = 1 / sums.rest;
  for_each(n, [&](int64_t i) { narrow(static_cast<T>(from[i]) * half * rest, to[i]); });
}

// From sums in float to a gradient of 16 bits.
template <class V>
__global__ void __launch_bounds__(kForwardThreads) from_float(const __grid_constant__ Problem p, int64_t n) {
  const float* from = static_cast<const float*>(p.sums);
  V* to = static_cast<V*>(p.grad_value);
  const int64_t fours = n / 4;
  for_each(fours, [&](int64_t i) { store<4>(load<4>(from + 4 * i), to + 4 * i); });
  for_each(n % 4, [&](int64_t i) { narrow(from[4 * fours + i], to[4 * fours + i]); });
}

}  // namespace mtaclip::cuda

// What the kernels need of a GPU: data types, loads of whole vectors, sums over lanes.
//
// Only the code behind __CUDA_ARCH__ needs nvcc: the tests compile these headers with a C++ compiler, and run the
// kernels on the processor.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace mtaclip::cuda {

constexpr unsigned kAllLanes = 0xffffffffu;

// What coordinates, weights and sums are computed in, for values of type V.
template <class V>
using Precise = std::conditional_t<std::is_same_v<V, double>, double, float>;

// Elements of a 16-byte vector; doubles are read one by one.
template <class V>
constexpr int kWide = std::is_same_v<V, double> ? 1 : 16 / static_cast<int>(sizeof(V));

template <class T, int N>
struct alignas(N * sizeof(T) > 16 ? 16 : N * sizeof(T)) Vector {
  T at[N];
};

__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ double widen(double x) { return x; }
__device__ __forceinline__ float widen(__half x) { return __half2float(x); }
__device__ __forceinline__ float widen(__nv_bfloat16 x) { return __bfloat162float(x); }

__device__ __forceinline__ float from_bits(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof(x));
  return x;
}

// Elements as they lie in memory; a pair of bfloat16 is widened with one instruction each.
template <int N, class V>
__device__ __forceinline__ void widen(const V* from, Precise<V>* to) {
  if constexpr (std::is_same_v<V, __nv_bfloat16> && N > 1) {
    const uint32_t* pairs = reinterpret_cast<const uint32_t*>(from);
#pragma unroll
    for (int j = 0; j < N / 2; ++j) {
      to[2 * j] = from_bits(pairs[j] << 16);
      to[2 * j + 1] = from_bits(pairs[j] & 0xffff0000u);
    }
  } else {
#pragma unroll
    for (int j = 0; j < N; ++j) to[j] = widen(from[j]);
  }
}

__device__ __forceinline__ void narrow(float x, float& to) { to = x; }
__device__ __forceinline__ void narrow(double x, double& to) { to = x; }
__device__ __forceinline__ void narrow(float x, __half& to) { to = __float2half_rn(x); }
__device__ __forceinline__ void narrow(float x, __nv_bfloat16& to) { to = __float2bfloat16_rn(x); }

template <int kBytes>
struct Bytes;
template <>
struct Bytes<2> {
  using type = uint16_t;
};
template <>
struct Bytes<4> {
  using type = uint32_t;
};
template <>
struct Bytes<8> {
  using type = uint2;
};
template <>
struct Bytes<16> {
  using type = uint4;
};

// N elements that no kernel writes while this one runs, in one load.
template <int N, class V>
__device__ __forceinline__ Vector<Precise<V>, N> load(const V* from) {
  using Raw = typename Bytes<N * static_cast<int>(sizeof(V))>::type;
#ifdef __CUDA_ARCH__
  const Raw raw = __ldg(reinterpret_cast<const Raw*>(from));
#else
  const Raw raw = *reinterpret_cast<const Raw*>(from);
#endif
  Vector<Precise<V>, N> result;
  widen<N>(reinterpret_cast<const V*>(&raw), result.at);
  return result;
}

template <int N, class V>
__device__ __forceinline__ void store(const Vector<Precise<V>, N>& from, V* to) {
  Vector<V, N> result;
#pragma unroll
  for (int j = 0; j < N; ++j) narrow(from.at[j], result.at[j]);
  *reinterpret_cast<Vector<V, N>*>(to) = result;
}

// e^x; for floats to about 2^-21 of the result where x is not far from 0, which a softmax does not notice.
__device__ __forceinline__ float exponential(float x) {
#ifdef __CUDA_ARCH__
  return __expf(x);
#else
  return std::exp(x);
#endif
}
__device__ __forceinline__ double exponential(double x) { return exp(x); }

// 1 / x; for floats to one unit, and x between 1 and 2^126.
__device__ __forceinline__ float reciprocal(float x) {
#ifdef __CUDA_ARCH__
  return __fdividef(1.0f, x);
#else
  return 1.0f / x;
#endif
}
__device__ __forceinline__ double reciprocal(double x) { return 1.0 / x; }

// The first one if the other is NaN.
__device__ __forceinline__ float larger(float a, float b) { return fmaxf(a, b); }
__device__ __forceinline__ double larger(double a, double b) { return fmax(a, b); }
__device__ __forceinline__ uint32_t larger(uint32_t a, uint32_t b) { return max(a, b); }
__device__ __forceinline__ float smaller(float a, float b) { return fminf(a, b); }
__device__ __forceinline__ double smaller(double a, double b) { return fmin(a, b); }

// The sum, or the largest, over `lanes` neighbouring lanes (a power of two); every lane gets it.
template <class T>
__device__ __forceinline__ T sum_of_lanes(T x, int lanes) {
#pragma unroll
  for (int step = 1; step < lanes; step *= 2) x += __shfl_xor_sync(kAllLanes, x, step);
  return x;
}

template <class T>
__device__ __forceinline__ T largest_of_lanes(T x, int lanes) {
#pragma unroll
  for (int step = 1; step < lanes; step *= 2) x = larger(x, __shfl_xor_sync(kAllLanes, x, step));
  return x;
}

}  // namespace mtaclip::cuda

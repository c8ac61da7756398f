// Vectors of the compiler (GCC and Clang), value types, and the arithmetic of one row of channels.
//
// Included once per instruction set, inside its own namespace: nothing here may be shared between object files that
// were compiled for different processors, so of the standard library there are types alone.

// Lanes of a vector of T: what the instruction set holds, at least 4 and at most the row's width.
template <class T, int D>
constexpr int lanes() {
  int n = kVectorBytes / static_cast<int>(sizeof(T));
  n = n < 4 ? 4 : n;
  if (D == 0 || D % n != 0) n = n < 8 ? n : 8;  // rows are padded to multiples of 8
  return n;
}

// Integers as wide as T, so that vectors of both have the same number of lanes.
template <class T>
struct IndexOf {
  using type = int32_t;
};
template <>
struct IndexOf<double> {
  using type = int64_t;
};
template <class T>
using Index = typename IndexOf<T>::type;

template <class T, int N>
struct VectorOf {
  typedef T type __attribute__((vector_size(N * sizeof(T)), aligned(sizeof(T)), may_alias));
};
template <class T, int N>
using Vector = typename VectorOf<T, N>::type;

template <class T, int N>
inline Vector<T, N> load(const T* from) {
  return *reinterpret_cast<const Vector<T, N>*>(from);
}

template <class T, int N>
inline void store(T* to, Vector<T, N> v) {
  *reinterpret_cast<Vector<T, N>*>(to) = v;
}

// Lanes chosen from `a` followed by `b`; Choose(j) is the number of the j-th.
template <class V, class Mask, class Choose, int... kLane>
inline V pick(V a, V b, Choose choose, std::integer_sequence<int, kLane...>) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, Choose{}(kLane)...);
#else
  return __builtin_shuffle(a, b, Mask{choose(kLane)...});
#endif
}

// x and y of pairs (x, y), (x, y), ... that fill `a` and then `b`; `zip` is the way back.
template <class T, int N>
inline void unzip(Vector<T, N> a, Vector<T, N> b, Vector<T, N>& x, Vector<T, N>& y) {
  using Mask = Vector<Index<T>, N>;
  constexpr auto kLanes = std::make_integer_sequence<int, N>{};
  x = pick<Vector<T, N>, Mask>(a, b, [](int j) constexpr { return 2 * j; }, kLanes);
  y = pick<Vector<T, N>, Mask>(a, b, [](int j) constexpr { return 2 * j + 1; }, kLanes);
}

template <class T, int N>
inline void zip(Vector<T, N> x, Vector<T, N> y, Vector<T, N>& a, Vector<T, N>& b) {
  using Mask = Vector<Index<T>, N>;
  constexpr auto kLanes = std::make_integer_sequence<int, N>{};
  a = pick<Vector<T, N>, Mask>(x, y, [](int j) constexpr { return j / 2 + j % 2 * N; }, kLanes);
  b = pick<Vector<T, N>, Mask>(x, y, [](int j) constexpr { return j / 2 + j % 2 * N + N / 2; }, kLanes);
}

// All lanes to one: halves are combined by `f` until two lanes are left.
template <class T, int N, class F>
inline T reduce(Vector<T, N> v, const F& f) {
  if constexpr (N == 2) {
    return f(v[0], v[1]);
  } else {
    Vector<T, N / 2> low, high;
    __builtin_memcpy(&low, &v, sizeof(low));
    __builtin_memcpy(&high, reinterpret_cast<const char*>(&v) + sizeof(low), sizeof(high));
    return reduce<T, N / 2>(f(low, high), f);
  }
}

// The sums of four vectors' lanes.
template <class T, int N>
inline void store_sums(T* to, const Vector<T, N> (&v)[4]) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4 && N == 16) {
    const __m512 a = reinterpret_cast<__m512>(v[0]), b = reinterpret_cast<__m512>(v[1]);
    const __m512 c = reinterpret_cast<__m512>(v[2]), d = reinterpret_cast<__m512>(v[3]);
    // Each 128-bit lane adds up within itself first, then the four lanes.
    const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    const __m512 four = _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
    const __m256 two = _mm256_add_ps(_mm512_castps512_ps256(four), _mm512_extractf32x8_ps(four, 1));
    _mm_storeu_ps(to, _mm_add_ps(_mm256_castps256_ps128(two), _mm256_extractf128_ps(two, 1)));
    return;
  }
#endif
#if defined(__AVX2__)
  if constexpr (sizeof(T) == 4 && N == 8) {
    const __m256 a = reinterpret_cast<__m256>(v[0]), b = reinterpret_cast<__m256>(v[1]);
    const __m256 c = reinterpret_cast<__m256>(v[2]), d = reinterpret_cast<__m256>(v[3]);
    const __m256 four = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    _mm_storeu_ps(to, _mm_add_ps(_mm256_castps256_ps128(four), _mm256_extractf128_ps(four, 1)));
    return;
  }
#endif
  for (int c = 0; c < 4; ++c) to[c] = reduce<T, N>(v[c], [](auto a, auto b) { return a + b; });
}

struct BFloat16 {
  uint16_t bits;
};

inline float widen(BFloat16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float result;
  __builtin_memcpy(&result, &bits, sizeof(result));
  return result;
}

inline void narrow(float x, BFloat16& to) {  // to nearest, ties to even; a NaN stays one
  uint32_t bits;
  __builtin_memcpy(&bits, &x, sizeof(bits));
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  to.bits = static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
}

// memcpy of a few numbers, without the call.
template <class T>
inline void copy(const T* from, T* to, int64_t count) {
  constexpr int N = lanes<T, 8>();
  int64_t d = 0;
  for (; d + N <= count; d += N) store<T, N>(to + d, load<T, N>(from + d));
  if constexpr (N > 4) {
    for (; d + 4 <= count; d += 4) store<T, 4>(to + d, load<T, 4>(from + d));
  }
  for (; d < count; ++d) to[d] = from[d];
}

// `count` channels, then zeros up to `padded`.
template <class V, class T>
inline void widen_row(const V* __restrict from, T* __restrict to, int64_t count, int64_t padded) {
  for (int64_t d = 0; d < count; ++d) to[d] = widen(from[d]);
  for (int64_t d = count; d < padded; ++d) to[d] = T(0);
}
template <class T>
inline void widen_row(const T* from, T* to, int64_t count, int64_t padded) {
  copy(from, to, count);
  for (int64_t d = count; d < padded; ++d) to[d] = T(0);
}

template <class V, class T>
inline void narrow_row(const T* __restrict from, V* __restrict to, int64_t count) {
  for (int64_t d = 0; d < count; ++d) narrow(from[d], to[d]);
}
template <class T>
inline void narrow_row(const T* from, T* to, int64_t count) {
  copy(from, to, count);
}

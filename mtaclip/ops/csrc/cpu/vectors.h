// Vectors of the compiler (GCC and Clang), value types, and the arithmetic of one row of channels.
//
// Included once per instruction set, inside its own namespace: nothing here may be shared between object files that
// were compiled for different processors, so there are no templates of the standard library.

// Lanes of a vector of T: what the instruction set holds, at least 4 and at most the row's width.
template <class T, int D>
constexpr int lanes() {
  int n = kVectorBytes / static_cast<int>(sizeof(T));
  n = n < 4 ? 4 : n;
  if (D == 0 || D % n != 0) n = n < 8 ? n : 8;  // rows are padded to multiples of 8
  return n;
}

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

// Add halves until four lanes are left, and store those.
template <class T, int N>
inline void store_four(T* to, Vector<T, N> v) {
  if constexpr (N == 4) {
    store<T, 4>(to, v);
  } else {
    Vector<T, N / 2> low, high;
    __builtin_memcpy(&low, &v, sizeof(low));
    __builtin_memcpy(&high, reinterpret_cast<const char*>(&v) + sizeof(low), sizeof(high));
    store_four<T, N / 2>(to, low + high);
  }
}

struct BFloat16 {
  uint16_t bits;
};

inline float widen(float x) { return x; }
inline double widen(double x) { return x; }
inline float widen(BFloat16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float result;
  __builtin_memcpy(&result, &bits, sizeof(result));
  return result;
}

inline void narrow(float x, float& to) { to = x; }
inline void narrow(double x, double& to) { to = x; }
inline void narrow(float x, BFloat16& to) {  // to nearest, ties to even; a NaN stays one
  uint32_t bits;
  __builtin_memcpy(&bits, &x, sizeof(bits));
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  to.bits = static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
}

// `count` channels, then zeros up to `padded`.
template <class V, class T>
inline void widen_row(const V* __restrict from, T* __restrict to, int64_t count, int64_t padded) {
  for (int64_t d = 0; d < count; ++d) to[d] = widen(from[d]);
  for (int64_t d = count; d < padded; ++d) to[d] = T(0);
}

template <class V, class T>
inline void narrow_row(const T* __restrict from, V* __restrict to, int64_t count) {
  for (int64_t d = 0; d < count; ++d) narrow(from[d], to[d]);
}

constexpr int64_t kLine = 64;  // bytes of a cache line

template <bool kWrite>
inline void prefetch(const void* from, int64_t bytes) {
  const char* p = reinterpret_cast<const char*>(reinterpret_cast<uintptr_t>(from) & ~static_cast<uintptr_t>(kLine - 1));
  const char* end = static_cast<const char*>(from) + bytes;
  for (; p < end; p += kLine) __builtin_prefetch(p, kWrite ? 1 : 0, 3);
}

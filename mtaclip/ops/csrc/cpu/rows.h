// What one tuple's points do to rows of D channels; D = 0 is any multiple of 8, given at run time.

// out = sum over points and their four neighbours of share * row.
template <class T, int D>
inline void gather(const T* __restrict slice, const Points<T>& t, int64_t channels, T* __restrict out) {
  constexpr int N = lanes<T, D>();
  using V = Vector<T, N>;
  if constexpr (D == 0) {
    for (int64_t d = 0; d < channels; d += N) {
      V sum = {};
      for (int64_t k = 0; k < t.count; ++k) {
        const T *upper = slice + t.upper[k] * channels + d, *lower = slice + t.lower[k] * channels + d;
        sum += t.share[0][k] * load<T, N>(upper) + t.share[1][k] * load<T, N>(upper + channels);
        sum += t.share[2][k] * load<T, N>(lower) + t.share[3][k] * load<T, N>(lower + channels);
      }
      store<T, N>(out + d, sum);
    }
  } else {
    constexpr int kVectors = D / N;
    constexpr int kSums = kVectors <= 2 ? 4 : kVectors <= 4 ? 2 : 1;  // independent chains of additions
    V sum[kSums][kVectors] = {};
    for (int64_t k = 0; k < t.count; ++k) {
      const T* lines[2] = {slice + static_cast<int64_t>(t.upper[k]) * D, slice + static_cast<int64_t>(t.lower[k]) * D};
#pragma GCC unroll 4
      for (int c = 0; c < 4; ++c) {
        const T* row = lines[c / 2] + c % 2 * D;
        const T share = t.share[c][k];
#pragma GCC unroll 16
        for (int j = 0; j < kVectors; ++j) sum[c % kSums][j] += share * load<T, N>(row + j * N);
      }
    }
#pragma GCC unroll 16
    for (int j = 0; j < kVectors; ++j) {
      V total = sum[0][j];
      for (int s = 1; s < kSums; ++s) total += sum[s][j];
      store<T, N>(out + j * N, total);
    }
  }
}

// For points [begin, end): t.dots = products of the four rows of `slice` with the output's gradient (if kDots), and
// the four rows of `grad_slice` += share * that gradient (if kAdd).
template <class T, int D, bool kDots, bool kAdd>
inline void spread(const T* slice, T* grad_slice, const Points<T>& t, const T* grad, int64_t channels, int64_t begin,
                   int64_t end) {
  constexpr int N = lanes<T, D>();
  using V = Vector<T, N>;
  const int64_t width = D == 0 ? channels : D;
  for (int64_t k = begin; k < end; ++k) {
    const int64_t rows[4] = {t.upper[k] * width, t.upper[k] * width + width, t.lower[k] * width,
                             t.lower[k] * width + width};
    V dot[4] = {};
#pragma GCC unroll 16
    for (int64_t d = 0; d < width; d += N) {
      const V g = load<T, N>(grad + d);
#pragma GCC unroll 4
      for (int c = 0; c < 4; ++c) {
        if constexpr (kDots) dot[c] += load<T, N>(slice + rows[c] + d) * g;
        if constexpr (kAdd) {
          T* row = grad_slice + rows[c] + d;
          store<T, N>(row, load<T, N>(row) + t.share[c][k] * g);
        }
      }
    }
    if constexpr (kDots) store_sums<T, N>(t.dots + 4 * k, dot);
  }
}

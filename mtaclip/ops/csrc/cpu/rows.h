// What one tuple's points do to rows of D channels; D = 0 is any multiple of 8, given at run time.

// out = sum over points and corners of share * row.
template <class T, int D>
inline void gather(const T* __restrict slice, const Points<T>& t, int64_t channels, T* __restrict out) {
  constexpr int N = lanes<T, D>();
  using V = Vector<T, N>;
  if constexpr (D == 0) {
    for (int64_t d = 0; d < channels; d += N) {
      V sum = {};
      for (int64_t k = 0; k < t.count; ++k) {
        for (int c = 0; c < 4; ++c) sum += t.share[c][k] * load<T, N>(slice + t.row[c][k] * channels + d);
      }
      store<T, N>(out + d, sum);
    }
  } else {
    constexpr int kVectors = D / N;
    constexpr int kSums = kVectors <= 2 ? 4 : kVectors <= 4 ? 2 : 1;  // independent chains of additions
    V sum[kSums][kVectors] = {};
    for (int64_t k = 0; k < t.count; ++k) {
#pragma GCC unroll 4
      for (int c = 0; c < 4; ++c) {
        const T* row = slice + static_cast<int64_t>(t.row[c][k]) * D;
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

// t.dots = dot products of the corners' rows with the output's gradient, as four partial sums.
template <class T, int D>
inline void dot_corner(const T* row, const T* grad, int64_t channels, T* four) {
  constexpr int N = lanes<T, D>();
  const int64_t width = D == 0 ? channels : D;
  Vector<T, N> sum = load<T, N>(row) * load<T, N>(grad);
#pragma GCC unroll 16
  for (int64_t d = N; d < width; d += N) sum += load<T, N>(row + d) * load<T, N>(grad + d);
  store_four<T, N>(four, sum);
}

template <class T, int D>
inline void dot_rows(const T* slice, const Points<T>& t, const T* grad, int64_t channels) {
  const int64_t width = D == 0 ? channels : D;
  for (int64_t k = 0; k < t.count; ++k) {
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) {
      dot_corner<T, D>(slice + t.row[c][k] * width, grad, width, t.dots + 4 * (c * t.padded + k));
    }
  }
}

// Rows of the value's gradient += share * the output's gradient, for points [begin, end).
template <class T, int D>
inline void add_rows(T* slice, const Points<T>& t, const T* grad, int64_t channels, int64_t begin, int64_t end) {
  constexpr int N = lanes<T, D>();
  const int64_t width = D == 0 ? channels : D;
  for (int64_t k = begin; k < end; ++k) {
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) {
      T* row = slice + t.row[c][k] * width;
      const T share = t.share[c][k];
#pragma GCC unroll 16
      for (int64_t d = 0; d < width; d += N) store<T, N>(row + d, load<T, N>(row + d) + share * load<T, N>(grad + d));
    }
  }
}

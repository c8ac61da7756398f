// The points of one (image, query, head): from positions and weights to rows of a slice with their shares, and back.

constexpr int64_t kBlock = 16;  // arrays of points are padded to multiples of it, so that loops have no remainder

// Sizes of the level that each point samples, and the work space for one tuple's points.
template <class T>
struct Points {
  int64_t count, padded;    // L * P, and with padding
  T *width, *height;        // of the point's level
  T *absent;                // 0 for a point, a large negative number for padding
  Index<T> *origin, *line;  // the level's first pixel and its rows per line
  T *weight;                // softmaxed
  T *fraction_x, *fraction_y;
  Index<T> *upper, *lower;  // rows of the left neighbours
  T* share[4];              // bilinear share times weight: upper left, upper right, lower left, lower right
  T* dots;                  // (padded, 4) products of those rows with the output's gradient
  T *positions, *weights;   // (2 * padded) and (padded): padded copies, and results
};

constexpr int64_t kArrays = 6 + 4 + 4 + 4 + 3;  // of a T's size, per padded point

template <class T>
int64_t points_bytes(const Problem& p) {
  return round_up(round_up(p.levels * p.points, kBlock) * kArrays * static_cast<int64_t>(sizeof(T)), kLine);
}

template <class T>
Points<T> make_points(const Problem& p, void* memory) {
  Points<T> t;
  t.count = p.levels * p.points;
  t.padded = round_up(t.count, kBlock);
  T* next = static_cast<T*>(memory);
  const auto take = [&](int64_t arrays) {
    T* start = next;
    next += arrays * t.padded;
    return start;
  };
  const auto take_index = [&] { return reinterpret_cast<Index<T>*>(take(1)); };
  T** const numbers[] = {&t.width, &t.height, &t.absent, &t.weight, &t.fraction_x, &t.fraction_y};
  for (T** array : numbers) *array = take(1);
  Index<T>** const integers[] = {&t.origin, &t.line, &t.upper, &t.lower};
  for (Index<T>** array : integers) *array = take_index();
  for (T*& share : t.share) share = take(1);
  t.dots = take(4);
  t.positions = take(2);
  t.weights = take(1);
  __builtin_memset(t.dots, 0, 4 * t.padded * sizeof(T));
  for (int64_t k = 0; k < t.padded; ++k) {
    const Level level = level_at(p, (k < t.count ? k : t.count - 1) / p.points);
    t.height[k] = static_cast<T>(level.height);
    t.width[k] = static_cast<T>(level.width);
    t.absent[k] = k < t.count ? T(0) : T(-1e30);
    t.origin[k] = static_cast<Index<T>>(level.origin());
    t.line[k] = static_cast<Index<T>>(level.stride);
  }
  return t;
}

// e^x for x <= 0: 2^n times the exponential series at |r| <= ln(2) / 2; 0 below the smallest normal number, since
// arithmetic on smaller ones is slow. A NaN stays one.
template <int N>
inline Vector<float, N> exponential(Vector<float, N> x) {
  using V = Vector<float, N>;
  using I = Vector<int32_t, N>;
  const V zero = {};
  const auto none = x < -87.0f;
  x = none ? zero : x;
  const I n = __builtin_convertvector(x * 1.442695041f - 0.5f, I);
  const V whole = __builtin_convertvector(n, V);
  const V r = (x - whole * 0.693145752f) - whole * 1.42860677e-6f;
  V sum = zero + 1.0f / 5040;
  sum = sum * r + 1.0f / 720;
  sum = sum * r + 1.0f / 120;
  sum = sum * r + 1.0f / 24;
  sum = sum * r + 1.0f / 6;
  sum = sum * r + 0.5f;
  sum = sum * r + 1.0f;
  sum = sum * r + 1.0f;
  return none ? zero : sum * reinterpret_cast<V>((n + 127) << 23);
}

template <int N>
inline Vector<double, N> exponential(Vector<double, N> x) {
  for (int j = 0; j < N; ++j) x[j] = __builtin_exp(x[j]);
  return x;
}

// Softmax of `logits`, which may be read up to t.padded, to t.weight.
template <class T>
inline void softmax(const Points<T>& t, const T* logits) {
  constexpr int N = lanes<T, kBlock>();
  using V = Vector<T, N>;
  const auto at = [&](int64_t k) { return load<T, N>(logits + k) + load<T, N>(t.absent + k); };
  V most = at(0);
  for (int64_t k = N; k < t.padded; k += N) most = most > at(k) ? most : at(k);
  const T largest = reduce<T, N>(most, [](auto a, auto b) { return a > b ? a : b; });
  V sum = {};
  for (int64_t k = 0; k < t.padded; k += N) {
    const V power = exponential<N>(at(k) - largest);
    store<T, N>(t.weight + k, power);
    sum += power;
  }
  const T scale = T(1) / reduce<T, N>(sum, [](auto a, auto b) { return a + b; });
  for (int64_t k = 0; k < t.padded; k += N) store<T, N>(t.weight + k, load<T, N>(t.weight + k) * scale);
}

// The next whole number below or equal. It is exact, since a point next to a level's edge must not move over it: behind
// the zeros around a level are other rows, or none.
template <class T, int N>
inline Vector<Index<T>, N> round_down(Vector<T, N> x) {
  const auto truncated = __builtin_convertvector(x, Vector<Index<T>, N>);
  return truncated + (__builtin_convertvector(truncated, Vector<T, N>) > x);  // a comparison that holds is -1
}

// Positions in pixels of points k .. k + N - 1 (0 is the centre of the level's first pixel) to rows and shares. What is
// not in reach of its level (NaN too) goes to the zeros above it.
template <class T, int N>
inline void locate(const Points<T>& t, int64_t k, Vector<T, N> x, Vector<T, N> y) {
  using V = Vector<T, N>;
  using I = Vector<Index<T>, N>;
  const V zero = {}, edge = zero - T(1), above = zero - T(2);
  const auto reached = (x > edge) & (x < load<T, N>(t.width + k)) & (y > edge) & (y < load<T, N>(t.height + k));
  x = reached ? x : zero;
  y = reached ? y : above;
  const I column = round_down<T, N>(x), line = round_down<T, N>(y);
  const V fx = x - __builtin_convertvector(column, V), fy = y - __builtin_convertvector(line, V);
  const I stride = load<Index<T>, N>(t.line + k);
  const I upper = load<Index<T>, N>(t.origin + k) + line * stride + column;
  store<Index<T>, N>(t.upper + k, upper);
  store<Index<T>, N>(t.lower + k, upper + stride);
  const V weight = load<T, N>(t.weight + k);
  const V low = weight * fy, high = weight - low;
  const V low_right = low * fx, high_right = high * fx;
  store<T, N>(t.share[0] + k, high - high_right);
  store<T, N>(t.share[1] + k, high_right);
  store<T, N>(t.share[2] + k, low - low_right);
  store<T, N>(t.share[3] + k, low_right);
  store<T, N>(t.fraction_x + k, fx);
  store<T, N>(t.fraction_y + k, fy);
}

// Reads whole blocks where the tensor goes on behind the tuple, else a padded copy.
template <class T>
inline const T* whole_blocks(const T* from, int64_t count, int64_t padded, int64_t left, T* copy) {
  if (left >= padded) return from;
  __builtin_memcpy(copy, from, count * sizeof(T));
  __builtin_memset(copy + count, 0, (padded - count) * sizeof(T));
  return copy;
}

// The points of tuple `i` = (image * N + query) * M + head.
template <class T>
inline void prepare(const Points<T>& t, const Problem& p, int64_t i) {
  const int64_t left = (p.batch * p.queries * p.heads - i) * t.count;
  const T* positions = static_cast<const T*>(p.positions) + 2 * i * t.count;
  const T* weights = static_cast<const T*>(p.weights) + i * t.count;
  positions = whole_blocks(positions, 2 * t.count, 2 * t.padded, 2 * left, t.positions);
  weights = whole_blocks(weights, t.count, t.padded, left, t.weights);
  constexpr int N = lanes<T, kBlock>();
  using V = Vector<T, N>;
  V centre_x = {}, centre_y = {};
  if (p.fused) {
    const T* reference = static_cast<const T*>(p.reference_points) + 2 * (i / p.heads % p.queries);
    centre_x += reference[0];
    centre_y += reference[1];
    softmax(t, weights);
  }
  for (int64_t k = 0; k < t.padded; k += N) {
    const V width = load<T, N>(t.width + k), height = load<T, N>(t.height + k);
    V x, y;
    unzip<T, N>(load<T, N>(positions + 2 * k), load<T, N>(positions + 2 * k + N), x, y);
    if (p.fused) {
      locate<T, N>(t, k, centre_x * width - T(0.5) + x, centre_y * height - T(0.5) + y);
    } else {
      store<T, N>(t.weight + k, load<T, N>(weights + k));
      locate<T, N>(t, k, x * width - T(0.5), y * height - T(0.5));
    }
  }
}

// Gradients of positions and weights of tuple `i` from t.dots.
template <class T>
inline void finish(const Points<T>& t, const Problem& p, int64_t i) {
  constexpr int N = lanes<T, kBlock>();
  using V = Vector<T, N>;
  V mean = {};
  for (int64_t k = 0; k < t.padded; k += N) {
    const T* dots = t.dots + 4 * k;
    V even[2], odd[2], d[4];
    for (int h = 0; h < 2; ++h) {
      unzip<T, N>(load<T, N>(dots + 2 * h * N), load<T, N>(dots + (2 * h + 1) * N), even[h], odd[h]);
    }
    unzip<T, N>(even[0], even[1], d[0], d[2]);
    unzip<T, N>(odd[0], odd[1], d[1], d[3]);
    const V fx = load<T, N>(t.fraction_x + k), fy = load<T, N>(t.fraction_y + k), weight = load<T, N>(t.weight + k);
    const V upper = d[1] - d[0], lower = d[3] - d[2];
    const V top = d[0] + fx * upper, bottom = d[2] + fx * lower, down = bottom - top;
    const V by_weight = top + fy * down;
    V by_x = weight * (upper + fy * (lower - upper)), by_y = weight * down;
    if (!p.fused) {
      by_x *= load<T, N>(t.width + k);
      by_y *= load<T, N>(t.height + k);
    }
    V pairs[2];
    zip<T, N>(by_x, by_y, pairs[0], pairs[1]);
    for (int h = 0; h < 2; ++h) store<T, N>(t.positions + 2 * k + h * N, pairs[h]);
    store<T, N>(t.weights + k, by_weight);
    mean += weight * by_weight;
  }
  if (p.fused) {  // through the softmax; the padding's weights are zero
    const T total = reduce<T, N>(mean, [](auto a, auto b) { return a + b; });
    for (int64_t k = 0; k < t.padded; k += N) {
      store<T, N>(t.weights + k, load<T, N>(t.weight + k) * (load<T, N>(t.weights + k) - total));
    }
  }
  copy(t.positions, static_cast<T*>(p.grad_positions) + 2 * i * t.count, 2 * t.count);
  copy(t.weights, static_cast<T*>(p.grad_weights) + i * t.count, t.count);
}

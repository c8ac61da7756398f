// The points of one (image, query, head): from positions and weights to rows of pixels with their shares.
//
// A corner outside its level is the row behind the last pixel, which holds zeros: it adds nothing to the output, its
// dot product is zero, and what the backward pass adds to it is thrown away. No corner needs a branch or a mask.

constexpr int64_t kBlock = 16;  // point arrays are padded to multiples of it, so that loops have no remainder

inline int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

// Rows are counted in integers as wide as T, so that vectors of both have the same number of lanes.
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

// Sizes of the level that each point samples, and the work space for one tuple's points.
template <class T>
struct Points {
  int64_t count, padded;    // L * P, and with padding
  Index<T> outside;         // the row of zeros
  T *width, *height;        // of the point's level
  Index<T> *columns, *lines, *first;  // the same in integers, and the level's first row
  T *x, *y, *weight;        // pixels (0 is the first pixel's centre), softmaxed weight
  T *fraction_x, *fraction_y;
  Index<T>* row[4];  // corners: top left, top right, bottom left, bottom right
  T* share[4];      // bilinear share times weight
  T* dots;          // (4, padded, 4) partial dot products with the output's gradient
  T *raw, *more;    // (2 * padded) copies and results
};

constexpr int64_t kArrays = 7 + 4 + 16 + 4 + 3 + 4;  // of a T's size, per padded point

template <class T>
int64_t points_bytes(const Problem& p) {
  const int64_t padded = round_up(p.levels * p.points, kBlock);
  return padded * kArrays * static_cast<int64_t>(sizeof(T));
}

template <class T>
Points<T> make_points(const Problem& p, void* memory) {
  Points<T> t;
  t.count = p.levels * p.points;
  t.padded = round_up(t.count, kBlock);
  t.outside = static_cast<Index<T>>(p.pixels);
  T* next = static_cast<T*>(memory);
  auto take = [&](int64_t arrays) {
    T* start = next;
    next += arrays * t.padded;
    return start;
  };
  t.dots = take(16);
  t.raw = take(2);
  t.more = take(2);
  t.width = take(1);
  t.height = take(1);
  t.x = take(1);
  t.y = take(1);
  t.weight = take(1);
  t.fraction_x = take(1);
  t.fraction_y = take(1);
  for (auto& share : t.share) share = take(1);
  auto take_index = [&] { return reinterpret_cast<Index<T>*>(take(1)); };
  t.columns = take_index();
  t.lines = take_index();
  t.first = take_index();
  for (auto& row : t.row) row = take_index();
  __builtin_memset(t.dots, 0, 16 * t.padded * sizeof(T));
  int64_t first = 0, level = 0;
  for (int64_t k = 0; k < t.padded; ++k) {
    if (k > 0 && k < t.count && k % p.points == 0) first += p.shapes[2 * level] * p.shapes[2 * level + 1], ++level;
    t.height[k] = static_cast<T>(p.shapes[2 * level]);
    t.width[k] = static_cast<T>(p.shapes[2 * level + 1]);
    t.lines[k] = static_cast<Index<T>>(p.shapes[2 * level]);
    t.columns[k] = static_cast<Index<T>>(p.shapes[2 * level + 1]);
    t.first[k] = static_cast<Index<T>>(first);
  }
  return t;
}

// e^x for x <= 0: 2^n times the exponential series at |r| <= ln(2) / 2. A NaN stays one.
template <class T>
struct Exponential;

template <>
struct Exponential<float> {
  static inline float at(float x) {
    x = x < -87.0f ? -87.0f : x;
    x = x > 0.0f ? 0.0f : x;
    const int32_t n = static_cast<int32_t>(x * 1.442695041f - 0.5f);
    const float r = (x - static_cast<float>(n) * 0.693145752f) - static_cast<float>(n) * 1.42860677e-6f;
    float sum = 1.0f / 5040;
    sum = sum * r + 1.0f / 720;
    sum = sum * r + 1.0f / 120;
    sum = sum * r + 1.0f / 24;
    sum = sum * r + 1.0f / 6;
    sum = sum * r + 0.5f;
    sum = sum * r + 1.0f;
    sum = sum * r + 1.0f;
    const int32_t bits = (n + 127) << 23;
    float scale;
    __builtin_memcpy(&scale, &bits, sizeof(scale));
    return sum * scale;
  }
};

template <>
struct Exponential<double> {
  static inline double at(double x) { return __builtin_exp(x); }
};

// Softmax of the logits to t.weight; `logits` may be read up to t.padded.
template <class T>
inline void softmax(const Points<T>& t, const T* logits) {
  T* __restrict weight = t.weight;
  T largest = logits[0];
  for (int64_t k = 1; k < t.count; ++k) largest = logits[k] > largest ? logits[k] : largest;
  for (int64_t b = 0; b < t.padded; b += kBlock) {
    for (int64_t k = b; k < b + kBlock; ++k) weight[k] = Exponential<T>::at(logits[k] - largest);
  }
  T total = T(0);
  for (int64_t k = 0; k < t.count; ++k) total += weight[k];
  const T scale = T(1) / total;
  for (int64_t b = 0; b < t.padded; b += kBlock) {
    for (int64_t k = b; k < b + kBlock; ++k) weight[k] *= scale;
  }
}

// Position in pixels to corner rows and shares. Far, infinite and NaN positions are clamped to just outside.
template <class T>
inline void locate(const Points<T>& t) {
  constexpr int N = lanes<T, kBlock>();
  using V = Vector<T, N>;
  using I = Vector<Index<T>, N>;
  const V zero = {}, low = zero - T(2);
  const I none = {}, outside = none + t.outside;
  for (int64_t k = 0; k < t.padded; k += N) {
    const V width = load<T, N>(t.width + k), height = load<T, N>(t.height + k), weight = load<T, N>(t.weight + k);
    V x = load<T, N>(t.x + k), y = load<T, N>(t.y + k);
    x = x > low ? x : low;
    y = y > low ? y : low;
    x = (x < width ? x : width) + T(2);  // >= 0, so that truncation rounds down
    y = (y < height ? y : height) + T(2);
    const I whole_x = __builtin_convertvector(x, I), whole_y = __builtin_convertvector(y, I);
    const V fx = x - __builtin_convertvector(whole_x, V), fy = y - __builtin_convertvector(whole_y, V);
    const I column = whole_x - 1, line = whole_y - 1;  // of the bottom right corner
    const I columns = load<Index<T>, N>(t.columns + k), lines = load<Index<T>, N>(t.lines + k);
    const I corner = load<Index<T>, N>(t.first + k) + line * columns + column;
    const I left = (column > 0) & (column <= columns), right = (column >= 0) & (column < columns);
    const I top = (line > 0) & (line <= lines), bottom = (line >= 0) & (line < lines);
    const auto put = [&](int c, I inside, I row) {
      store<Index<T>, N>(t.row[c] + k, (inside & row) | (~inside & outside));
    };
    put(3, right & bottom, corner);
    put(2, left & bottom, corner - 1);
    put(1, right & top, corner - columns);
    put(0, left & top, corner - columns - 1);
    const V lower = weight * fy, upper = weight - lower;
    const V lower_right = lower * fx, upper_right = upper * fx;
    store<T, N>(t.share[3] + k, lower_right);
    store<T, N>(t.share[2] + k, lower - lower_right);
    store<T, N>(t.share[1] + k, upper_right);
    store<T, N>(t.share[0] + k, upper - upper_right);
    store<T, N>(t.fraction_x + k, fx);
    store<T, N>(t.fraction_y + k, fy);
  }
}

// Reads whole blocks where the tensors go on behind the tuple, else a padded copy.
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
  positions = whole_blocks(positions, 2 * t.count, 2 * t.padded, 2 * left, t.raw);
  weights = whole_blocks(weights, t.count, t.padded, left, t.more);
  T *__restrict x = t.x, *__restrict y = t.y;
  const T *__restrict width = t.width, *__restrict height = t.height;
  T at_x = T(0), at_y = T(0), step_x = T(0);
  if (p.fused) {
    const T* reference = static_cast<const T*>(p.reference_points) + 2 * (i / p.heads % p.queries);
    at_x = reference[0];
    at_y = reference[1];
    step_x = T(1);
    softmax(t, weights);
  } else {
    for (int64_t b = 0; b < t.padded; b += kBlock) __builtin_memcpy(t.weight + b, weights + b, kBlock * sizeof(T));
  }
  for (int64_t b = 0; b < t.padded; b += kBlock) {
    if (step_x != T(0)) {
      for (int64_t k = b; k < b + kBlock; ++k) {
        x[k] = at_x * width[k] - T(0.5) + positions[2 * k];
        y[k] = at_y * height[k] - T(0.5) + positions[2 * k + 1];
      }
    } else {
      for (int64_t k = b; k < b + kBlock; ++k) {
        x[k] = positions[2 * k] * width[k] - T(0.5);
        y[k] = positions[2 * k + 1] * height[k] - T(0.5);
      }
    }
  }
  locate(t);
}

// Gradients of positions and weights of tuple `i` from t.dots.
template <class T>
inline void finish(const Points<T>& t, const Problem& p, int64_t i) {
  T *__restrict grad_xy = t.raw, *__restrict grad_weight = t.more;
  const T *__restrict fraction_x = t.fraction_x, *__restrict fraction_y = t.fraction_y, *__restrict weight = t.weight;
  const T *__restrict width = t.width, *__restrict height = t.height;
  const int64_t n = 4 * t.padded;
  const T* __restrict dots = t.dots;
  const T scaled = p.fused ? T(0) : T(1), plain = T(1) - scaled;
  for (int64_t b = 0; b < t.padded; b += kBlock) {
    for (int64_t k = b; k < b + kBlock; ++k) {
      const int64_t at = 4 * k;
      const T d0 = (dots[at] + dots[at + 1]) + (dots[at + 2] + dots[at + 3]);
      const T d1 = (dots[at + n] + dots[at + n + 1]) + (dots[at + n + 2] + dots[at + n + 3]);
      const T d2 = (dots[at + 2 * n] + dots[at + 2 * n + 1]) + (dots[at + 2 * n + 2] + dots[at + 2 * n + 3]);
      const T d3 = (dots[at + 3 * n] + dots[at + 3 * n + 1]) + (dots[at + 3 * n + 2] + dots[at + 3 * n + 3]);
      const T upper = d1 - d0, lower = d3 - d2;
      const T top = d0 + fraction_x[k] * upper, bottom = d2 + fraction_x[k] * lower;
      const T down = bottom - top;
      grad_weight[k] = top + fraction_y[k] * down;
      grad_xy[2 * k] = weight[k] * (upper + fraction_y[k] * (lower - upper)) * (plain + scaled * width[k]);
      grad_xy[2 * k + 1] = weight[k] * down * (plain + scaled * height[k]);
    }
  }
  if (p.fused) {  // through the softmax
    T mean = T(0);
    for (int64_t k = 0; k < t.count; ++k) mean += weight[k] * grad_weight[k];
    for (int64_t k = 0; k < t.count; ++k) grad_weight[k] = weight[k] * (grad_weight[k] - mean);
  }
  __builtin_memcpy(static_cast<T*>(p.grad_positions) + 2 * i * t.count, grad_xy, 2 * t.count * sizeof(T));
  __builtin_memcpy(static_cast<T*>(p.grad_weights) + i * t.count, grad_weight, t.count * sizeof(T));
}

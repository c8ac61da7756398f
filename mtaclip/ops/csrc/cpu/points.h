// The points of one (image, query, head): from positions and weights to rows of pixels with their shares.
//
// A corner outside its level is the row behind the last pixel, which holds zeros: it adds nothing to the output, its
// dot product is zero, and what the backward pass adds to it is thrown away. No corner needs a branch or a mask.

constexpr int64_t kBlock = 16;  // point arrays are padded to multiples of it, so that loops have no remainder

inline int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

// Sizes of the level that each point samples, and the work space for one tuple's points.
template <class T>
struct Points {
  int64_t count, padded;    // L * P, and with padding
  int32_t outside;          // the row of zeros
  T *width, *height;        // of the point's level
  int32_t *columns, *first;  // its width, and its first pixel's row; heights are compared as T
  T *x, *y, *weight;        // pixels (0 is the first pixel's centre), softmaxed weight
  T *fraction_x, *fraction_y;
  int32_t* row[4];  // corners: top left, top right, bottom left, bottom right
  T* share[4];      // bilinear share times weight
  T* dots;          // (4, padded, 4) partial dot products with the output's gradient
  T *raw, *more;    // (2 * padded) copies and results
};

constexpr int64_t kArrays = 11 + 4 + 16 + 4;  // of T, per padded point
constexpr int64_t kIndices = 2 + 4;           // of int32_t

template <class T>
int64_t points_bytes(const Problem& p) {
  const int64_t padded = round_up(p.levels * p.points, kBlock);
  return padded * (kArrays * static_cast<int64_t>(sizeof(T)) + kIndices * 4);
}

template <class T>
Points<T> make_points(const Problem& p, void* memory) {
  Points<T> t;
  t.count = p.levels * p.points;
  t.padded = round_up(t.count, kBlock);
  t.outside = static_cast<int32_t>(p.pixels);
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
  int32_t* index = reinterpret_cast<int32_t*>(take(0));
  t.columns = index;
  t.first = index + t.padded;
  for (int c = 0; c < 4; ++c) t.row[c] = index + (2 + c) * t.padded;
  __builtin_memset(t.dots, 0, 16 * t.padded * sizeof(T));
  int64_t first = 0, level = 0;
  for (int64_t k = 0; k < t.padded; ++k) {
    if (k > 0 && k < t.count && k % p.points == 0) first += p.shapes[2 * level] * p.shapes[2 * level + 1], ++level;
    t.height[k] = static_cast<T>(p.shapes[2 * level]);
    t.width[k] = static_cast<T>(p.shapes[2 * level + 1]);
    t.columns[k] = static_cast<int32_t>(p.shapes[2 * level + 1]);
    t.first[k] = static_cast<int32_t>(first);
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

// Softmax of t.raw[0 .. count) to t.weight.
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
  const T *__restrict px = t.x, *__restrict py = t.y, *__restrict pa = t.weight;
  const T *__restrict width = t.width, *__restrict height = t.height;
  const int32_t *__restrict columns = t.columns, *__restrict first = t.first;
  int32_t *__restrict r0 = t.row[0], *__restrict r1 = t.row[1], *__restrict r2 = t.row[2], *__restrict r3 = t.row[3];
  T *__restrict s0 = t.share[0], *__restrict s1 = t.share[1], *__restrict s2 = t.share[2], *__restrict s3 = t.share[3];
  T *__restrict fraction_x = t.fraction_x, *__restrict fraction_y = t.fraction_y;
  const int32_t outside = t.outside;
  for (int64_t b = 0; b < t.padded; b += kBlock) {
    for (int64_t k = b; k < b + kBlock; ++k) {
      T x = px[k] > T(-2) ? px[k] : T(-2);
      T y = py[k] > T(-2) ? py[k] : T(-2);
      x = (x < width[k] ? x : width[k]) + T(2);  // >= 0, so that truncation rounds down
      y = (y < height[k] ? y : height[k]) + T(2);
      const int32_t whole_x = static_cast<int32_t>(x), whole_y = static_cast<int32_t>(y);
      const T fx = x - static_cast<T>(whole_x), fy = y - static_cast<T>(whole_y);
      const int32_t column = whole_x - 1, line = whole_y - 1;  // of the bottom right corner
      const int32_t rows = static_cast<int32_t>(height[k]);
      const int32_t corner = first[k] + line * columns[k] + column;
      const bool left = (column >= 1) & (column <= columns[k]), right = (column >= 0) & (column < columns[k]);
      const bool top = (line >= 1) & (line <= rows), bottom = (line >= 0) & (line < rows);
      r3[k] = (right & bottom) ? corner : outside;
      r2[k] = (left & bottom) ? corner - 1 : outside;
      r1[k] = (right & top) ? corner - columns[k] : outside;
      r0[k] = (left & top) ? corner - columns[k] - 1 : outside;
      const T lower = pa[k] * fy, upper = pa[k] - lower;
      s3[k] = lower * fx;
      s2[k] = lower - s3[k];
      s1[k] = upper * fx;
      s0[k] = upper - s1[k];
      fraction_x[k] = fx;
      fraction_y[k] = fy;
    }
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
    __builtin_memcpy(t.weight, weights, t.padded * sizeof(T));
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
  auto sum = [](const T* four) { return (four[0] + four[1]) + (four[2] + four[3]); };
  const T scaled = p.fused ? T(0) : T(1), plain = T(1) - scaled;
  for (int64_t b = 0; b < t.padded; b += kBlock) {
    for (int64_t k = b; k < b + kBlock; ++k) {
      const T d0 = sum(dots + 4 * k), d1 = sum(dots + n + 4 * k);
      const T d2 = sum(dots + 2 * n + 4 * k), d3 = sum(dots + 3 * n + 4 * k);
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

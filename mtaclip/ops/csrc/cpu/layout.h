// How the kernels hold values, and in which order they visit queries.
//
// One head's channels of one image form a slice: level after level, line after line, every pixel a row of padded
// channels. Zeros surround each level: two lines above, one line below, and one column behind each line, which is
// also the column before the next. A point between pixels then reads two neighbours in its upper line and two in its
// lower one wherever it lies, without a branch or a mask, and a point outside its level reads the lines above it. What
// the backward pass adds to the zeros is thrown away.

struct Level {
  int64_t height, width, stride;  // stride: rows of one line, with its column of zeros
  int64_t pixel;                  // the first pixel's place in the value
  int64_t block, rows;            // first row and number of rows in a slice, zeros included
  int64_t origin() const { return block + 2 * stride; }  // row of the first pixel
};

inline Level level_at(const Problem& p, int64_t level) {
  Level result{};
  for (int64_t l = 0; l <= level; ++l) {
    result.pixel += result.height * result.width;
    result.block += result.rows;
    result.height = p.shapes[2 * l];
    result.width = p.shapes[2 * l + 1];
    result.stride = result.width + 1;
    result.rows = (result.height + 3) * result.stride;
  }
  return result;
}

inline int64_t padded_channels(const Problem& p) { return round_up(p.channels, 8); }

// Elements from one slice to the next: 9 lines of the cache off a multiple of 4 KiB, so that heads do not evict each
// other.
template <class T>
int64_t slice_stride(const Problem& p) {
  const Level last = level_at(p, p.levels - 1);
  const int64_t bytes = (last.block + last.rows) * padded_channels(p) * static_cast<int64_t>(sizeof(T));
  return (round_up(bytes, 64 * kLine) + 9 * kLine) / static_cast<int64_t>(sizeof(T));
}

template <class T>
int64_t slice_bytes(const Problem& p) {
  return slice_stride<T>(p) * static_cast<int64_t>(sizeof(T));
}

// One line of one level to a slice, with the zeros next to it.
template <class V, class T, int D>
void pack_line(const Problem& p, int64_t unit, const Level& level, int64_t line, T* slice) {
  const int64_t channels = D == 0 ? p.channels : D, width = D == 0 ? padded_channels(p) : D;
  const int64_t image = unit / p.heads, m = unit % p.heads, row = p.heads * channels;
  const auto zero = [&](T* rows, int64_t count) { __builtin_memset(rows, 0, count * width * sizeof(T)); };
  const V* from = static_cast<const V*>(p.value) + (image * p.pixels + level.pixel + line * level.width) * row;
  T* to = slice + (level.origin() + line * level.stride) * width;
  for (int64_t x = 0; x < level.width; ++x) widen_row(from + x * row + m * channels, to + x * width, channels, width);
  zero(to + level.width * width, 1);
  if (line == 0) zero(slice + level.block * width, 2 * level.stride);
  if (line == level.height - 1) zero(to + level.stride * width, level.stride);
}

// One slice, by this thread.
template <class V, class T, int D>
void pack_slice(const Problem& p, int64_t unit, T* slice) {
  for (int64_t l = 0; l < p.levels; ++l) {
    const Level level = level_at(p, l);
    for (int64_t line = 0; line < level.height; ++line) pack_line<V, T, D>(p, unit, level, line, slice);
  }
}

// All slices, line by line, in parallel.
template <class V, class T, int D>
void pack_all(const Problem& p, T* slices) {
  const int64_t stride = slice_stride<T>(p);
  int64_t lines = 0;
  for (int64_t l = 0; l < p.levels; ++l) lines += p.shapes[2 * l];
  run(p, p.batch * lines, 4, [&](int64_t begin, int64_t end) {
    for (int64_t u = begin; u < end; ++u) {
      int64_t line = u % lines, level = 0;
      while (line >= p.shapes[2 * level]) line -= p.shapes[2 * level++];
      for (int64_t m = 0; m < p.heads; ++m) {
        const int64_t unit = u / lines * p.heads + m;
        pack_line<V, T, D>(p, unit, level_at(p, level), line, slices + unit * stride);
      }
    }
  });
}

// One level of a slice to the gradient of the value.
template <class V, class T, int D>
void unpack(const Problem& p, const T* slice, int64_t unit, const Level& level) {
  const int64_t channels = D == 0 ? p.channels : D, width = D == 0 ? padded_channels(p) : D;
  const int64_t image = unit / p.heads, m = unit % p.heads;
  V* grad = static_cast<V*>(p.grad_value) + ((image * p.pixels + level.pixel) * p.heads + m) * channels;
  for (int64_t y = 0; y < level.height; ++y) {
    const T* from = slice + (level.origin() + y * level.stride) * width;
    for (int64_t x = 0; x < level.width; ++x) {
      narrow_row(from + x * width, grad + (y * level.width + x) * p.heads * channels, channels);
    }
  }
}

// Queries in the order of visits. Where each pixel is a query, squares of neighbours follow one another, which sample
// nearly the same rows; otherwise the given order. The order changes no result.
constexpr int64_t kSquare = 8;

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

inline const int32_t* visiting_order(const Problem& p, void* memory) {
  int32_t* order = static_cast<int32_t*>(memory);
  int64_t next = 0;
  if (p.queries != p.pixels) {
    for (; next < p.queries; ++next) order[next] = static_cast<int32_t>(next);
    return order;
  }
  for (int64_t l = 0; l < p.levels; ++l) {
    const Level level = level_at(p, l);
    for (int64_t top = 0; top < level.height; top += kSquare) {
      for (int64_t left = 0; left < level.width; left += kSquare) {
        for (int64_t y = top; y < least(top + kSquare, level.height); ++y) {
          for (int64_t x = left; x < least(left + kSquare, level.width); ++x) {
            order[next++] = static_cast<int32_t>(level.pixel + y * level.width + x);
          }
        }
      }
    }
  }
  return order;
}

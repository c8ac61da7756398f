// Forward and backward over whole tensors. A source file defines MTACLIP_ISA (a namespace) and MTACLIP_VECTOR_BYTES
// and includes this; it is compiled once per instruction set.
//
// Values are first copied head by head, (B, M, S + 1, padded D), with a row of zeros behind the last pixel. Nothing is
// added from two threads, and every sum has one order: results have the same bits for any number of threads.
#pragma once

#include <cstdint>
#include <cstdlib>

#include "problem.h"

namespace mtaclip {
namespace MTACLIP_ISA {

constexpr int kVectorBytes = MTACLIP_VECTOR_BYTES;

#include "vectors.h"
#include "points.h"
#include "rows.h"

constexpr int64_t kTile = 64;   // queries whose heads one thread visits in turn
constexpr int64_t kAhead = 6;   // queries between a prefetch and its use

inline int64_t padded_channels(const Problem& p) { return round_up(p.channels, 8); }

// Elements of one head's slice. Starts of slices are 9 lines off a multiple of 4 KiB, so that heads do not evict
// each other from the caches.
template <class T>
int64_t slice_stride(const Problem& p) {
  const int64_t bytes = (p.pixels + 1) * padded_channels(p) * static_cast<int64_t>(sizeof(T));
  return (round_up(bytes, 64 * kLine) + 9 * kLine) / static_cast<int64_t>(sizeof(T));
}

// A thread's own memory, aligned to a cache line.
struct Workspace {
  void* memory;
  explicit Workspace(int64_t bytes) : memory(std::aligned_alloc(kLine, round_up(bytes, kLine))) {}
  ~Workspace() { std::free(memory); }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
};

template <class F>
void run(const Problem& p, int64_t count, int64_t grain, const F& body) {
  p.parallel_for(
      count, grain,
      [](void* context, int64_t begin, int64_t end) { (*static_cast<const F*>(context))(begin, end); },
      const_cast<void*>(static_cast<const void*>(&body)));
}

inline void refuse(bool& ok) { __atomic_store_n(&ok, false, __ATOMIC_RELAXED); }

template <class V, class T, int D>
void pack(const Problem& p) {
  constexpr int64_t kRows = 16;
  const int64_t channels = D == 0 ? p.channels : D;
  const int64_t blocks = (p.pixels + kRows - 1) / kRows, stride = slice_stride<T>(p), width = padded_channels(p);
  const V* value = static_cast<const V*>(p.value);
  T* packed = static_cast<T*>(p.scratch);
  run(p, p.batch * blocks, 16, [&](int64_t begin, int64_t end) {
    for (int64_t u = begin; u < end; ++u) {
      const int64_t image = u / blocks, first = u % blocks * kRows;
      const int64_t last = first + kRows < p.pixels ? first + kRows : p.pixels;
      for (int64_t m = 0; m < p.heads; ++m) {
        T* slice = packed + (image * p.heads + m) * stride;
        for (int64_t s = first; s < last; ++s) {
          widen_row(value + ((image * p.pixels + s) * p.heads + m) * channels, slice + s * width, channels,
                    D == 0 ? width : D);
        }
        if (last == p.pixels) __builtin_memset(slice + p.pixels * width, 0, width * sizeof(T));
      }
    }
  });
}

template <class V, class T, int D>
void unpack(const Problem& p, const T* slice, int64_t unit, int64_t first, int64_t last) {
  const int64_t image = unit / p.heads, m = unit % p.heads, width = padded_channels(p);
  V* grad = static_cast<V*>(p.grad_value);
  for (int64_t s = first; s < last; ++s) {
    narrow_row(slice + s * width, grad + ((image * p.pixels + s) * p.heads + m) * p.channels, D == 0 ? p.channels : D);
  }
}

// Ask for what tuple `i` will read.
template <class T>
inline void prefetch_inputs(const Problem& p, int64_t i, int64_t count) {
  const int64_t size = sizeof(T);
  prefetch<false>(static_cast<const T*>(p.positions) + 2 * i * count, 2 * count * size);
  prefetch<false>(static_cast<const T*>(p.weights) + i * count, count * size);
}

template <class V, class T, int D>
bool forward(const Problem& p) {
  pack<V, T, D>(p);
  const int64_t queries = p.batch * p.queries, width = padded_channels(p), stride = slice_stride<T>(p);
  const T* packed = static_cast<const T*>(p.scratch);
  V* output = static_cast<V*>(p.output);
  bool ok = true;
  run(p, (queries + kTile - 1) / kTile, 1, [&](int64_t begin, int64_t end) {
    const int64_t points = round_up(points_bytes<T>(p), kLine);
    Workspace workspace(points + width * static_cast<int64_t>(sizeof(T)));
    if (workspace.memory == nullptr) return refuse(ok);
    const Points<T> t = make_points<T>(p, workspace.memory);
    T* sum = reinterpret_cast<T*>(static_cast<char*>(workspace.memory) + points);
    for (int64_t tile = begin; tile < end; ++tile) {
      const int64_t last = (tile + 1) * kTile < queries ? (tile + 1) * kTile : queries;
      for (int64_t m = 0; m < p.heads; ++m) {
        for (int64_t q = tile * kTile; q < last; ++q) {
          const int64_t i = q * p.heads + m;
          if (q + kAhead < queries) {
            const int64_t ahead = i + kAhead * p.heads;
            prefetch_inputs<T>(p, ahead, t.count);
            prefetch<true>(output + ahead * p.channels, p.channels * static_cast<int64_t>(sizeof(V)));
          }
          prepare(t, p, i);
          gather<T, D>(packed + (q / p.queries * p.heads + m) * stride, t, width, sum);
          narrow_row(sum, output + i * p.channels, D == 0 ? p.channels : D);
        }
      }
    }
  });
  return ok;
}

// The part of the backward pass that queries [begin, end) of one (image, head) have. `slice` is the packed value, or
// null if another pass does the gradients of positions and weights; `grad_slice` is the gradient of the packed value,
// or null if another pass does that, for points [first, last).
template <class V, class T, int D>
void backward_queries(const Problem& p, const Points<T>& t, T* grad, int64_t unit, int64_t begin, int64_t end,
                      const T* slice, T* grad_slice, int64_t first, int64_t last) {
  const int64_t width = padded_channels(p), image = unit / p.heads, m = unit % p.heads;
  const V* grad_output = static_cast<const V*>(p.grad_output);
  const int64_t size = sizeof(T);
  for (int64_t q = begin; q < end; ++q) {
    const int64_t i = (image * p.queries + q) * p.heads + m;
    if (q + kAhead < end) {
      const int64_t ahead = i + kAhead * p.heads;
      prefetch_inputs<T>(p, ahead, t.count);
      prefetch<false>(grad_output + ahead * p.channels, p.channels * static_cast<int64_t>(sizeof(V)));
      if (slice != nullptr) {
        prefetch<true>(static_cast<T*>(p.grad_positions) + 2 * ahead * t.count, 2 * t.count * size);
        prefetch<true>(static_cast<T*>(p.grad_weights) + ahead * t.count, t.count * size);
      }
    }
    prepare(t, p, i);
    widen_row(grad_output + i * p.channels, grad, D == 0 ? p.channels : D, D == 0 ? width : D);
    if (slice != nullptr) dot_rows<T, D>(slice, t, grad, width);
    if (grad_slice != nullptr) add_rows<T, D>(grad_slice, t, grad, width, first, last);
    if (slice != nullptr) finish(t, p, i);
  }
}

template <class T>
struct BackwardSpace {
  Workspace workspace;
  int64_t points, row;
  BackwardSpace(const Problem& p, int64_t slice)
      : workspace(round_up(points_bytes<T>(p), kLine) + round_up(padded_channels(p) * sizeof(T), kLine) +
                  slice * static_cast<int64_t>(sizeof(T))),
        points(round_up(points_bytes<T>(p), kLine)),
        row(round_up(padded_channels(p) * sizeof(T), kLine)) {}
  char* bytes() const { return static_cast<char*>(workspace.memory); }
  T* grad() const { return reinterpret_cast<T*>(bytes() + points); }
  T* slice() const { return reinterpret_cast<T*>(bytes() + points + row); }
};

// One (image, head) per thread: all three gradients in one pass.
template <class V, class T, int D>
bool backward_by_head(const Problem& p) {
  const int64_t stride = slice_stride<T>(p), width = padded_channels(p);
  const T* packed = static_cast<const T*>(p.scratch);
  bool ok = true;
  run(p, p.batch * p.heads, 1, [&](int64_t begin, int64_t end) {
    BackwardSpace<T> space(p, stride);
    if (space.bytes() == nullptr) return refuse(ok);
    const Points<T> t = make_points<T>(p, space.bytes());
    for (int64_t unit = begin; unit < end; ++unit) {
      __builtin_memset(space.slice(), 0, (p.pixels + 1) * width * sizeof(T));
      backward_queries<V, T, D>(p, t, space.grad(), unit, 0, p.queries, packed + unit * stride, space.slice(), 0,
                                t.count);
      unpack<V, T, D>(p, space.slice(), unit, 0, p.pixels);
    }
  });
  return ok;
}

// More threads than (image, head) pairs: positions and weights by queries, then the value by (image, head, level).
template <class V, class T, int D>
bool backward_by_level(const Problem& p) {
  const int64_t stride = slice_stride<T>(p), width = padded_channels(p), tiles = (p.queries + kTile - 1) / kTile;
  const T* packed = static_cast<const T*>(p.scratch);
  bool ok = true;
  run(p, p.batch * p.heads * tiles, 1, [&](int64_t begin, int64_t end) {
    BackwardSpace<T> space(p, 0);
    if (space.bytes() == nullptr) return refuse(ok);
    const Points<T> t = make_points<T>(p, space.bytes());
    for (int64_t u = begin; u < end; ++u) {
      const int64_t unit = u / tiles, first = u % tiles * kTile;
      const int64_t last = first + kTile < p.queries ? first + kTile : p.queries;
      backward_queries<V, T, D>(p, t, space.grad(), unit, first, last, packed + unit * stride, nullptr, 0, 0);
    }
  });
  run(p, p.batch * p.heads * p.levels, 1, [&](int64_t begin, int64_t end) {
    BackwardSpace<T> space(p, stride);
    if (space.bytes() == nullptr) return refuse(ok);
    const Points<T> t = make_points<T>(p, space.bytes());
    for (int64_t u = begin; u < end; ++u) {
      const int64_t unit = u / p.levels, level = u % p.levels;
      const int64_t rows = p.shapes[2 * level] * p.shapes[2 * level + 1], first = t.first[level * p.points];
      __builtin_memset(space.slice() + first * width, 0, rows * width * sizeof(T));
      __builtin_memset(space.slice() + p.pixels * width, 0, width * sizeof(T));
      backward_queries<V, T, D>(p, t, space.grad(), unit, 0, p.queries, nullptr, space.slice(), level * p.points,
                                (level + 1) * p.points);
      unpack<V, T, D>(p, space.slice(), unit, first, first + rows);
    }
  });
  return ok;
}

template <class V, class T, int D>
bool backward(const Problem& p) {
  pack<V, T, D>(p);
  return p.threads > p.batch * p.heads ? backward_by_level<V, T, D>(p) : backward_by_head<V, T, D>(p);
}

using Kernel = bool (*)(const Problem&);

template <class V, class T>
Kernel choose(const Problem& p, bool back) {
  switch (p.channels) {
    case 8:
      return back ? backward<V, T, 8> : forward<V, T, 8>;
    case 16:
      return back ? backward<V, T, 16> : forward<V, T, 16>;
    case 32:
      return back ? backward<V, T, 32> : forward<V, T, 32>;
    case 64:
      return back ? backward<V, T, 64> : forward<V, T, 64>;
    default:
      return back ? backward<V, T, 0> : forward<V, T, 0>;
  }
}

inline Kernel choose(const Problem& p, bool back) {
  switch (p.type) {
    case ValueType::kDouble:
      return choose<double, double>(p, back);
    case ValueType::kBFloat16:
      return choose<BFloat16, float>(p, back);
    default:
      return choose<float, float>(p, back);
  }
}

inline int64_t scratch_bytes(const Problem& p) {
  const int64_t slices = p.batch * p.heads;
  return p.type == ValueType::kDouble ? slices * slice_stride<double>(p) * 8 : slices * slice_stride<float>(p) * 4;
}

inline Kernels kernels() {
  return {scratch_bytes, [](const Problem& p) { return choose(p, false)(p); },
          [](const Problem& p) { return choose(p, true)(p); }};
}

}  // namespace MTACLIP_ISA
}  // namespace mtaclip

// Forward and backward over whole tensors. A source file defines MTACLIP_ISA (a namespace) and MTACLIP_VECTOR_BYTES
// and includes this; it is compiled once per instruction set.
//
// Values are first copied head by head (layout.h). Nothing is added from two threads, and every sum has one order:
// results have the same bits for any number of threads.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <utility>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "problem.h"

namespace mtaclip {
namespace MTACLIP_ISA {

constexpr int kVectorBytes = MTACLIP_VECTOR_BYTES;
constexpr int64_t kLine = 64;  // bytes of a cache line

inline int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

template <class F>
void run(const Problem& p, int64_t count, int64_t grain, const F& body) {
  p.parallel_for(
      count, grain,
      [](void* context, int64_t begin, int64_t end) { (*static_cast<const F*>(context))(begin, end); },
      const_cast<void*>(static_cast<const void*>(&body)));
}

#include "vectors.h"
#include "layout.h"
#include "points.h"
#include "rows.h"

constexpr int64_t kTile = kSquare * kSquare;  // queries whose heads one thread visits in turn
constexpr int64_t kAhead = 6;                 // queries between a prefetch and its use

// A thread's own memory, aligned to a cache line.
struct Workspace {
  char* memory;
  explicit Workspace(int64_t bytes)
      : memory(static_cast<char*>(std::aligned_alloc(kLine, static_cast<size_t>(round_up(bytes, kLine))))) {}
  ~Workspace() { std::free(memory); }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
};

inline void refuse(bool& ok) { __atomic_store_n(&ok, false, __ATOMIC_RELAXED); }

template <bool kWrite>
inline void prefetch(const void* from, int64_t bytes) {
  const char* p = reinterpret_cast<const char*>(reinterpret_cast<uintptr_t>(from) & ~static_cast<uintptr_t>(kLine - 1));
  const char* end = static_cast<const char*>(from) + bytes;
  for (; p < end; p += kLine) __builtin_prefetch(p, kWrite ? 1 : 0, 3);
}

// Ask for what tuple `i` will read.
template <class T>
inline void prefetch_points(const Problem& p, int64_t i, int64_t count) {
  const int64_t size = sizeof(T);
  prefetch<false>(static_cast<const T*>(p.positions) + 2 * i * count, 2 * count * size);
  prefetch<false>(static_cast<const T*>(p.weights) + i * count, count * size);
}

template <class V, class T, int D>
bool forward(const Problem& p) {
  pack<V, T, D>(p);
  const T* packed = static_cast<const T*>(p.scratch);
  const int32_t* order = visiting_order(p, static_cast<char*>(p.scratch) + packed_bytes<T>(p));
  const int64_t tiles = (p.queries + kTile - 1) / kTile, stride = slice_stride<T>(p);
  const int64_t width = D == 0 ? padded_channels(p) : D, channels = D == 0 ? p.channels : D;
  V* output = static_cast<V*>(p.output);
  bool ok = true;
  run(p, p.batch * tiles, 1, [&](int64_t begin, int64_t end) {
    const int64_t points = points_bytes<T>(p);
    const Workspace workspace(points + width * static_cast<int64_t>(sizeof(T)));
    if (workspace.memory == nullptr) return refuse(ok);
    const Points<T> t = make_points<T>(p, workspace.memory);
    T* sum = reinterpret_cast<T*>(workspace.memory + points);
    for (int64_t tile = begin; tile < end; ++tile) {
      const int64_t image = tile / tiles, first = tile % tiles * kTile;
      const int64_t last = first + kTile < p.queries ? first + kTile : p.queries;
      for (int64_t m = 0; m < p.heads; ++m) {
        const auto tuple = [&](int64_t n) { return (image * p.queries + order[n]) * p.heads + m; };
        for (int64_t n = first; n < last; ++n) {
          if (n + kAhead < p.queries) {
            const int64_t ahead = tuple(n + kAhead);
            prefetch_points<T>(p, ahead, t.count);
            prefetch<true>(output + ahead * channels, channels * static_cast<int64_t>(sizeof(V)));
          }
          const int64_t i = tuple(n);
          prepare(t, p, i);
          gather<T, D>(packed + (image * p.heads + m) * stride, t, width, sum);
          narrow_row(sum, output + i * channels, channels);
        }
      }
    }
  });
  return ok;
}

// A thread's memory for the backward pass: points, one row, and a slice for the value's gradient.
template <class T>
struct BackwardSpace {
  int64_t points, row;
  Workspace workspace;
  BackwardSpace(const Problem& p, bool with_slice)
      : points(points_bytes<T>(p)),
        row(round_up(padded_channels(p) * static_cast<int64_t>(sizeof(T)), kLine)),
        workspace(points + row + (with_slice ? slice_stride<T>(p) * static_cast<int64_t>(sizeof(T)) : 0)) {}
  T* grad() const { return reinterpret_cast<T*>(workspace.memory + points); }
  T* slice() const { return reinterpret_cast<T*>(workspace.memory + points + row); }
};

// Queries order[begin, end) of one (image, head). `slice` is the packed value, for the gradients of positions and
// weights (if kDots); `grad_slice` is the gradient of the packed value (if kAdd), from the points [first, last).
template <class V, class T, int D, bool kDots, bool kAdd>
void backward_queries(const Problem& p, const Points<T>& t, T* grad, int64_t unit, const int32_t* order, int64_t begin,
                      int64_t end, const T* slice, T* grad_slice, int64_t first, int64_t last) {
  const int64_t width = D == 0 ? padded_channels(p) : D, channels = D == 0 ? p.channels : D;
  const V* grad_output = static_cast<const V*>(p.grad_output);
  const int64_t size = sizeof(T);
  const auto tuple = [&](int64_t n) {
    return (unit / p.heads * p.queries + order[n]) * p.heads + unit % p.heads;
  };
  for (int64_t n = begin; n < end; ++n) {
    if (n + kAhead < end) {
      const int64_t ahead = tuple(n + kAhead);
      prefetch_points<T>(p, ahead, t.count);
      prefetch<false>(grad_output + ahead * channels, channels * static_cast<int64_t>(sizeof(V)));
      if constexpr (kDots) {
        prefetch<true>(static_cast<T*>(p.grad_positions) + 2 * ahead * t.count, 2 * t.count * size);
        prefetch<true>(static_cast<T*>(p.grad_weights) + ahead * t.count, t.count * size);
      }
    }
    const int64_t i = tuple(n);
    prepare(t, p, i);
    widen_row(grad_output + i * channels, grad, channels, width);
    spread<T, D, kDots, kAdd>(slice, grad_slice, t, grad, width, first, last);
    if constexpr (kDots) finish(t, p, i);
  }
}

// One (image, head) per thread: all three gradients in one pass.
template <class V, class T, int D>
bool backward_by_head(const Problem& p, const int32_t* order) {
  const int64_t stride = slice_stride<T>(p);
  const T* packed = static_cast<const T*>(p.scratch);
  bool ok = true;
  run(p, p.batch * p.heads, 1, [&](int64_t begin, int64_t end) {
    const BackwardSpace<T> space(p, true);
    if (space.workspace.memory == nullptr) return refuse(ok);
    const Points<T> t = make_points<T>(p, space.workspace.memory);
    for (int64_t unit = begin; unit < end; ++unit) {
      __builtin_memset(space.slice(), 0, stride * sizeof(T));
      backward_queries<V, T, D, true, true>(p, t, space.grad(), unit, order, 0, p.queries, packed + unit * stride,
                                            space.slice(), 0, t.count);
      for (int64_t l = 0; l < p.levels; ++l) unpack<V, T, D>(p, space.slice(), unit, level_at(p, l));
    }
  });
  return ok;
}

// More threads than (image, head) pairs: positions and weights by queries, then the value by (image, head, level).
template <class V, class T, int D>
bool backward_by_level(const Problem& p, const int32_t* order) {
  const int64_t stride = slice_stride<T>(p), tiles = (p.queries + kTile - 1) / kTile;
  const int64_t width = D == 0 ? padded_channels(p) : D;
  const T* packed = static_cast<const T*>(p.scratch);
  bool ok = true;
  run(p, p.batch * p.heads * tiles, 1, [&](int64_t begin, int64_t end) {
    const BackwardSpace<T> space(p, false);
    if (space.workspace.memory == nullptr) return refuse(ok);
    const Points<T> t = make_points<T>(p, space.workspace.memory);
    for (int64_t u = begin; u < end; ++u) {
      const int64_t unit = u / tiles, first = u % tiles * kTile;
      const int64_t last = first + kTile < p.queries ? first + kTile : p.queries;
      backward_queries<V, T, D, true, false>(p, t, space.grad(), unit, order, first, last, packed + unit * stride,
                                             nullptr, 0, t.count);
    }
  });
  run(p, p.batch * p.heads * p.levels, 1, [&](int64_t begin, int64_t end) {
    const BackwardSpace<T> space(p, true);
    if (space.workspace.memory == nullptr) return refuse(ok);
    const Points<T> t = make_points<T>(p, space.workspace.memory);
    for (int64_t u = begin; u < end; ++u) {
      const int64_t unit = u / p.levels, l = u % p.levels;
      const Level level = level_at(p, l);
      __builtin_memset(space.slice() + level.block * width, 0, level.rows * width * sizeof(T));
      backward_queries<V, T, D, false, true>(p, t, space.grad(), unit, order, 0, p.queries, nullptr, space.slice(),
                                             l * p.points, (l + 1) * p.points);
      unpack<V, T, D>(p, space.slice(), unit, level);
    }
  });
  return ok;
}

template <class V, class T, int D>
bool backward(const Problem& p) {
  pack<V, T, D>(p);
  const int32_t* order = visiting_order(p, static_cast<char*>(p.scratch) + packed_bytes<T>(p));
  return p.threads > p.batch * p.heads ? backward_by_level<V, T, D>(p, order) : backward_by_head<V, T, D>(p, order);
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
  const int64_t packed = p.type == ValueType::kDouble ? packed_bytes<double>(p) : packed_bytes<float>(p);
  return packed + p.queries * static_cast<int64_t>(sizeof(int32_t));
}

inline Kernels kernels() {
  return {scratch_bytes, [](const Problem& p) { return choose(p, false)(p); },
          [](const Problem& p) { return choose(p, true)(p); }};
}

}  // namespace MTACLIP_ISA
}  // namespace mtaclip

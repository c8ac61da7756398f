// Forward and backward over whole tensors. A source file defines MTACLIP_ISA (a namespace) and MTACLIP_VECTOR_BYTES
// and includes this; it is compiled once per instruction set.
//
// Values are copied head by head (layout.h). With enough (image, head) pairs, called units, a thread takes whole ones
// and holds one copy at a time; otherwise all are copied first and the threads share the queries. Nothing is added from
// two threads, and every sum has one order: results have the same bits for any number of threads.
#pragma once

#include <cstdint>
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

// Whether threads take whole units.
inline bool whole_units(const Problem& p) {
  const int64_t units = p.batch * p.heads;
  return units % p.threads == 0 || units >= 2 * p.threads;
}

// How a call's scratch memory is used: the order of the queries; the slices of all units, where threads share them; for
// each thread the points of a tuple, one row, and its own slices.
template <class T>
struct Scratch {
  int64_t order, shared, points, row, slice, thread;  // bytes; `thread`: of all that one thread owns
  char* memory;
  Scratch(const Problem& p, bool back)
      : order(round_up(p.queries * static_cast<int64_t>(sizeof(int32_t)), kLine)),
        shared(whole_units(p) ? 0 : p.batch * p.heads * slice_bytes<T>(p)),
        points(points_bytes<T>(p)),
        row(round_up(padded_channels(p) * static_cast<int64_t>(sizeof(T)), kLine)),
        slice(slice_bytes<T>(p)),
        thread(points + row + ((whole_units(p) ? 1 : 0) + (back ? 1 : 0)) * slice),
        memory(static_cast<char*>(p.scratch)) {}
  int64_t bytes(const Problem& p) const { return order + shared + p.threads * thread; }
  T* shared_slices() const { return reinterpret_cast<T*>(memory + order); }
};

// One thread's share of `count` items: what `body` gets beside their range.
template <class T>
struct Space {
  const Scratch<T>& scratch;
  char* memory;
  Points<T> points;
  Space(const Problem& p, const Scratch<T>& s, int64_t number)
      : scratch(s), memory(s.memory + s.order + s.shared + number * s.thread), points(make_points<T>(p, memory)) {}
  T* row() const { return reinterpret_cast<T*>(memory + scratch.points); }
  T* slice(int64_t i) const {
    return reinterpret_cast<T*>(memory + scratch.points + scratch.row + i * scratch.slice);
  }
};

// Deals `count` items to the threads, in runs of neighbours, each with a space of its own.
template <class T, class F>
void deal(const Problem& p, const Scratch<T>& scratch, int64_t count, const F& body) {
  run(p, p.threads, 1, [&](int64_t first, int64_t last) {
    for (int64_t n = first; n < last; ++n) {
      const int64_t begin = count * n / p.threads, end = count * (n + 1) / p.threads;
      if (begin < end) body(Space<T>(p, scratch, n), begin, end);
    }
  });
}

// The number of the tuple (image, query, head) that a query has in a unit.
inline int64_t tuple_of(const Problem& p, int64_t unit, int64_t query) {
  return (unit / p.heads * p.queries + query) * p.heads + unit % p.heads;
}

// The output of queries order[begin, end) of one unit.
template <class V, class T, int D>
void forward_queries(const Problem& p, const Space<T>& space, int64_t unit, const int32_t* order, int64_t begin,
                     int64_t end, const T* slice) {
  const Points<T>& t = space.points;
  T* sum = space.row();
  const int64_t width = D == 0 ? padded_channels(p) : D, channels = D == 0 ? p.channels : D;
  V* output = static_cast<V*>(p.output);
  const auto tuple = [&](int64_t n) { return tuple_of(p, unit, order[n]); };
  for (int64_t n = begin; n < end; ++n) {
    if (n + kAhead < p.queries) {
      const int64_t ahead = tuple(n + kAhead);
      prefetch_points<T>(p, ahead, t.count);
      prefetch<true>(output + ahead * channels, channels * static_cast<int64_t>(sizeof(V)));
    }
    const int64_t i = tuple(n);
    prepare(t, p, i);
    gather<T, D>(slice, t, width, sum);
    narrow_row(sum, output + i * channels, channels);
  }
}

template <class V, class T, int D>
void forward_by_unit(const Problem& p, const Scratch<T>& scratch, const int32_t* order) {
  deal(p, scratch, p.batch * p.heads, [&](const Space<T>& space, int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      pack_slice<V, T, D>(p, unit, space.slice(0));
      forward_queries<V, T, D>(p, space, unit, order, 0, p.queries, space.slice(0));
    }
  });
}

template <class V, class T, int D>
void forward_by_tile(const Problem& p, const Scratch<T>& scratch, const int32_t* order) {
  T* packed = scratch.shared_slices();
  pack_all<V, T, D>(p, packed);
  const int64_t tiles = (p.queries + kTile - 1) / kTile, stride = slice_stride<T>(p);
  deal(p, scratch, p.batch * tiles, [&](const Space<T>& space, int64_t begin, int64_t end) {
    for (int64_t u = begin; u < end; ++u) {
      const int64_t image = u / tiles, first = u % tiles * kTile, last = least(first + kTile, p.queries);
      for (int64_t m = 0; m < p.heads; ++m) {
        const int64_t unit = image * p.heads + m;
        forward_queries<V, T, D>(p, space, unit, order, first, last, packed + unit * stride);
      }
    }
  });
}

template <class V, class T, int D>
void forward(const Problem& p) {
  const Scratch<T> scratch(p, false);
  const int32_t* order = visiting_order(p, scratch.memory);
  whole_units(p) ? forward_by_unit<V, T, D>(p, scratch, order) : forward_by_tile<V, T, D>(p, scratch, order);
}

// The gradients from queries order[begin, end) of one unit: of positions and weights (if kDots) with the help of
// `slice`, the packed value; of the packed value (if kAdd), in `grad_slice`, as far as the points [first, last) go.
template <class V, class T, int D, bool kDots, bool kAdd>
void backward_queries(const Problem& p, const Space<T>& space, int64_t unit, const int32_t* order, int64_t begin,
                      int64_t end, const T* slice, T* grad_slice, int64_t first, int64_t last) {
  const Points<T>& t = space.points;
  T* grad = space.row();
  const int64_t width = D == 0 ? padded_channels(p) : D, channels = D == 0 ? p.channels : D;
  const V* grad_output = static_cast<const V*>(p.grad_output);
  const int64_t size = sizeof(T);
  const auto tuple = [&](int64_t n) { return tuple_of(p, unit, order[n]); };
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

// All three gradients in one pass.
template <class V, class T, int D>
void backward_by_unit(const Problem& p, const Scratch<T>& scratch, const int32_t* order) {
  deal(p, scratch, p.batch * p.heads, [&](const Space<T>& space, int64_t begin, int64_t end) {
    T *slice = space.slice(0), *grad_slice = space.slice(1);
    for (int64_t unit = begin; unit < end; ++unit) {
      pack_slice<V, T, D>(p, unit, slice);
      __builtin_memset(grad_slice, 0, scratch.slice);
      backward_queries<V, T, D, true, true>(p, space, unit, order, 0, p.queries, slice, grad_slice, 0,
                                            space.points.count);
      for (int64_t l = 0; l < p.levels; ++l) unpack<V, T, D>(p, grad_slice, unit, level_at(p, l));
    }
  });
}

// Positions and weights by queries, then the value by (unit, level).
template <class V, class T, int D>
void backward_by_level(const Problem& p, const Scratch<T>& scratch, const int32_t* order) {
  T* packed = scratch.shared_slices();
  pack_all<V, T, D>(p, packed);
  const int64_t stride = slice_stride<T>(p), tiles = (p.queries + kTile - 1) / kTile;
  const int64_t width = D == 0 ? padded_channels(p) : D;
  deal(p, scratch, p.batch * p.heads * tiles, [&](const Space<T>& space, int64_t begin, int64_t end) {
    for (int64_t u = begin; u < end; ++u) {
      const int64_t unit = u / tiles, first = u % tiles * kTile, last = least(first + kTile, p.queries);
      backward_queries<V, T, D, true, false>(p, space, unit, order, first, last, packed + unit * stride, nullptr, 0,
                                             space.points.count);
    }
  });
  deal(p, scratch, p.batch * p.heads * p.levels, [&](const Space<T>& space, int64_t begin, int64_t end) {
    T* grad_slice = space.slice(0);
    for (int64_t u = begin; u < end; ++u) {
      const int64_t unit = u / p.levels, l = u % p.levels;
      const Level level = level_at(p, l);
      __builtin_memset(grad_slice + level.block * width, 0, level.rows * width * sizeof(T));
      backward_queries<V, T, D, false, true>(p, space, unit, order, 0, p.queries, nullptr, grad_slice, l * p.points,
                                             (l + 1) * p.points);
      unpack<V, T, D>(p, grad_slice, unit, level);
    }
  });
}

template <class V, class T, int D>
void backward(const Problem& p) {
  const Scratch<T> scratch(p, true);
  const int32_t* order = visiting_order(p, scratch.memory);
  whole_units(p) ? backward_by_unit<V, T, D>(p, scratch, order) : backward_by_level<V, T, D>(p, scratch, order);
}

using Kernel = void (*)(const Problem&);

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

inline int64_t scratch_bytes(const Problem& p, bool back) {
  return p.type == ValueType::kDouble ? Scratch<double>(p, back).bytes(p) : Scratch<float>(p, back).bytes(p);
}

inline Kernels kernels() {
  return {scratch_bytes, [](const Problem& p) { choose(p, false)(p); }, [](const Problem& p) { choose(p, true)(p); }};
}

}  // namespace MTACLIP_ISA
}  // namespace mtaclip

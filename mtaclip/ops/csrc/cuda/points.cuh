// The tuple of a group of lanes, and its points: from positions and weights to rows of pixels with their shares.
#pragma once

#include "device.cuh"
#include "problem.h"

namespace mtaclip::cuda {

// What a kernel is compiled for. V: type of the values, W: of positions and weights; kVector: elements that a lane
// reads at a time. Zero lanes, levels and points: the problem says how many.
template <class V_, class W_, bool kFused_, int kVector_, int kLanes_ = 0, int kLevels_ = 0, int kPoints_ = 0>
struct Config {
  using V = V_;
  using W = W_;
  using T = Precise<V>;
  static constexpr bool kFused = kFused_;
  static constexpr int kVector = kVector_;
  static constexpr bool kStatic = kLanes_ > 0;
  static constexpr int kLanes = kLanes_, kLevels = kLevels_, kPoints = kPoints_;

  static __device__ __forceinline__ int lanes(const Problem& p) { return kStatic ? kLanes_ : p.lanes; }
  static __device__ __forceinline__ int levels(const Problem& p) { return kStatic ? kLevels_ : p.levels; }
  static __device__ __forceinline__ int points(const Problem& p) { return kStatic ? kPoints_ : p.points; }
  static __device__ __forceinline__ int count(const Problem& p) { return levels(p) * points(p); }
  static __device__ __forceinline__ int vectors(const Problem& p) { return kStatic ? kLanes_ : p.vectors; }
  static __device__ __forceinline__ int channels(const Problem& p) { return vectors(p) * kVector; }
  // How many points one lane prepares, at most; its i-th is number lane + i * lanes.
  static __device__ __forceinline__ int own(const Problem& p) { return (count(p) + lanes(p) - 1) / lanes(p); }
};

// The bilinear shares of the four corners (top left, top right, bottom left, bottom right) times the weight, zero for
// a corner outside; later the corners' dot products.
template <class T>
using Corners = Vector<T, 4>;

// A group's place in its block and its part of shared memory, where its lanes tell each other their points.
template <class C>
struct Group {
  using T = typename C::T;
  int lane, number, total;
  Corners<T>* shares;  // one per point
  uint32_t* cells;     // one per point, see Point

  __device__ __forceinline__ explicit Group(const Problem& p) {
    extern __shared__ uint4 shared[];
    const int lanes = C::lanes(p), stride = C::count(p) | 1;
    lane = static_cast<int>(threadIdx.x) & (lanes - 1);
    number = static_cast<int>(threadIdx.x) / lanes;
    total = static_cast<int>(blockDim.x) / lanes;
    Corners<T>* memory = reinterpret_cast<Corners<T>*>(shared);
    shares = memory + number * stride;
    cells = reinterpret_cast<uint32_t*>(memory + total * stride) + number * stride;
  }
};

// The part of the queries that a block has.
struct Tile {
  Map map;
  int x, y;

  __device__ __forceinline__ Tile(const Problem& p) {
    const int number = static_cast<int>(blockIdx.x);
    int m = 0;
    while (m + 1 < p.maps && number >= p.map[m + 1].first_tile) ++m;
    map = p.map[m];
    const int inside = number - map.first_tile, row = inside / map.tiles_across;
    x = (inside - row * map.tiles_across) * kTileWidth;
    y = row * ((p.tile_items >> p.head_bits) / kTileWidth);
  }
};

template <class C>
struct Tuple {
  bool live;  // false beyond the edges of a map: the lanes take part, and write nothing
  int query, head;
  int64_t index;  // (image * N + query) * M + head

  __device__ __forceinline__ Tuple(const Problem& p, const Tile& tile, int item) {
    head = (static_cast<int>(blockIdx.y) << p.head_bits) + (item & ((1 << p.head_bits) - 1));
    const int i = item >> p.head_bits, x = tile.x + i % kTileWidth, y = tile.y + i / kTileWidth;
    query = tile.map.first + y * tile.map.width + x;
    live = x < tile.map.width && y < tile.map.height && query < p.queries;
    query = live ? query : 0;
    index = (static_cast<int64_t>(blockIdx.z) * p.queries + query) * p.heads + head;
  }

  // Where the image and head begin in a (B, S, M, D) tensor.
  __device__ __forceinline__ int64_t slice(const Problem& p) const {
    return (static_cast<int64_t>(blockIdx.z) * p.pixels * p.heads + head) * C::channels(p);
  }
};

// The softmax over a tuple's logits; nothing to do for finished weights.
template <class C>
struct Weights {
  using T = typename C::T;
  const typename C::W* from;
  T largest, scale;

  __device__ __forceinline__ Weights(const Problem& p, const Group<C>& group, const Tuple<C>& tuple)
      : from(static_cast<const typename C::W*>(p.weights) + tuple.index * C::count(p)), largest(0), scale(1) {
    if constexpr (C::kFused) {
      const int lanes = C::lanes(p), count = C::count(p), own = C::own(p);
      largest = -INFINITY;
#pragma unroll
      for (int i = 0; i < own; ++i) {
        const int k = group.lane + i * lanes;
        if (k < count) largest = larger(largest, load<1>(from + k).at[0]);
      }
      largest = largest_of_lanes(largest, lanes);
      T total = 0;
#pragma unroll
      for (int i = 0; i < own; ++i) {
        const int k = group.lane + i * lanes;
        if (k < count) total += exponential(load<1>(from + k).at[0] - largest);
      }
      scale = reciprocal(sum_of_lanes(total, lanes));
    }
  }

  __device__ __forceinline__ T at(int k) const {
    const T x = load<1>(from + k).at[0];
    return C::kFused ? exponential(x - largest) * scale : x;
  }
};

// One point. `cell`: the vector (counted from the image's and head's first) where the row of the top left pixel
// begins, moved inside if that is outside, times four; plus 1 if a step to the right stays inside and is one, plus 2
// if a step down is. So every corner's address is valid, whether the corner is inside or not.
template <class C>
struct Point {
  using T = typename C::T;
  T weight, fraction_x, fraction_y;
  bool left, right, top, bottom;  // is that column, that line inside the level?
  Level level;
  int inner_column, inner_line;
  uint32_t cell;

  __device__ __forceinline__ Point(const Problem& p, const Tuple<C>& tuple, int k, T weight_) : weight(weight_) {
    using W = typename C::W;
    level = p.level[k / C::points(p)];
    const Vector<T, 2> position = load<2>(static_cast<const W*>(p.positions) + 2 * (tuple.index * C::count(p) + k));
    const T width = static_cast<T>(level.width), height = static_cast<T>(level.height);
    T x, y;
    if constexpr (C::kFused) {
      const Vector<T, 2> centre = load<2>(static_cast<const T*>(p.reference_points) + 2 * tuple.query);
      x = centre.at[0] * width - T(0.5) + position.at[0];
      y = centre.at[1] * height - T(0.5) + position.at[1];
    } else {
      x = position.at[0] * width - T(0.5);
      y = position.at[1] * height - T(0.5);
    }
    x = smaller(larger(x, T(-2)), width);  // far, infinite and NaN positions: just outside
    y = smaller(larger(y, T(-2)), height);
    const T whole_x = floor(x), whole_y = floor(y);
    fraction_x = x - whole_x;
    fraction_y = y - whole_y;
    const int column = static_cast<int>(whole_x), line = static_cast<int>(whole_y);
    left = static_cast<unsigned>(column) < static_cast<unsigned>(level.width);
    right = static_cast<unsigned>(column + 1) < static_cast<unsigned>(level.width);
    top = static_cast<unsigned>(line) < static_cast<unsigned>(level.height);
    bottom = static_cast<unsigned>(line + 1) < static_cast<unsigned>(level.height);
    inner_column = min(max(column, 0), level.width - 1), inner_line = min(max(line, 0), level.height - 1);
    const uint32_t pixel = static_cast<uint32_t>(level.first + inner_line * level.width + inner_column);
    cell = pixel * static_cast<uint32_t>(p.row_vectors) * 4 + (left && right ? 1 : 0) + (top && bottom ? 2 : 0);
  }

  __device__ __forceinline__ Corners<T> shares() const {
    const T at_left = left ? 1 - fraction_x : T(0), at_right = right ? fraction_x : T(0);
    const T at_top = top ? (1 - fraction_y) * weight : T(0), at_bottom = bottom ? fraction_y * weight : T(0);
    return {{at_top * at_left, at_top * at_right, at_bottom * at_left, at_bottom * at_right}};
  }
};

// Prepare the tuple's points, each by one lane, for all lanes to read. A tuple that is not live has no shares.
template <class C>
__device__ __forceinline__ void publish(const Problem& p, const Group<C>& group, const Tuple<C>& tuple,
                                        const Weights<C>& weights) {
  const int lanes = C::lanes(p), count = C::count(p), own = C::own(p);
#pragma unroll
  for (int i = 0; i < own; ++i) {
    const int k = group.lane + i * lanes;
    if (k < count) {
      const Point<C> point(p, tuple, k, tuple.live ? weights.at(k) : 0);
      group.shares[k] = point.shares();
      group.cells[k] = point.cell;
    }
  }
  __syncwarp();
}

// The vectors at which a point's four rows begin.
struct Rows {
  uint32_t at[4];

  __device__ __forceinline__ Rows(const Problem& p, uint32_t cell, int level) {
    const uint32_t right = cell & 1 ? p.row_vectors : 0, down = cell & 2 ? p.level[level].width * p.row_vectors : 0;
    at[0] = cell >> 2;
    at[1] = at[0] + right;
    at[2] = at[0] + down;
    at[3] = at[1] + down;
  }
};

}  // namespace mtaclip::cuda

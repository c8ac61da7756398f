// The gradients. A point's gradients are linear in the dot products of the output's gradient with its four corners'
// rows; the value's gradient is the sum of share * the output's gradient over everything that sampled a pixel.
#pragma once

#include "points.cuh"
#include "sums.cuh"

namespace mtaclip::cuda {

constexpr int kBatch = 4;  // points whose dot products are summed over the lanes together

// Sum a batch's dot products over the group's lanes; lane l gets those of the batch's point l % 4.
//
// Lanes trade halves of what they hold: first the two points that the other pair of lanes wants, then the one that the
// neighbour wants. Larger groups add up what is left.
template <class T>
__device__ __forceinline__ Corners<T> sum_batch(const Corners<T> (&dots)[kBatch], int lane, int lanes) {
  Corners<T> two[2], one;
  const bool upper = lane & 2, odd = lane & 1;
#pragma unroll
  for (int c = 0; c < 4; ++c) {
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const T kept = upper ? dots[j + 2].at[c] : dots[j].at[c], given = upper ? dots[j].at[c] : dots[j + 2].at[c];
      two[j].at[c] = kept + __shfl_xor_sync(kAllLanes, given, 2);
    }
    const T kept = odd ? two[1].at[c] : two[0].at[c], given = odd ? two[0].at[c] : two[1].at[c];
    one.at[c] = kept + __shfl_xor_sync(kAllLanes, given, 1);
  }
#pragma unroll
  for (int step = 4; step < lanes; step *= 2) {
#pragma unroll
    for (int c = 0; c < 4; ++c) one.at[c] += __shfl_xor_sync(kAllLanes, one.at[c], step);
  }
  return one;
}

// Gradients of the positions and weights of a tuple, whose dot products have taken the place of the shares.
template <class C>
__device__ __forceinline__ void finish(const Problem& p, const Group<C>& group, const Tuple<C>& tuple,
                                       const Weights<C>& weights) {
  using T = typename C::T;
  using W = typename C::W;
  const int lanes = C::lanes(p), count = C::count(p), own = C::own(p);
  W* grad_positions = static_cast<W*>(p.grad_positions) + 2 * tuple.index * count;
  W* grad_weights = static_cast<W*>(p.grad_weights) + tuple.index * count;
  T mean = 0;
#pragma unroll
  for (int i = 0; i < own; ++i) {
    const int k = group.lane + i * lanes;
    if (k < count) {
      const Point<C> point(p, tuple, k, weights.at(k));
      const Corners<T> dots = group.shares[k];
      const T d0 = point.left && point.top ? dots.at[0] : T(0), d1 = point.right && point.top ? dots.at[1] : T(0);
      const T d2 = point.left && point.bottom ? dots.at[2] : T(0), d3 = point.right && point.bottom ? dots.at[3] : T(0);
      const T upper = d1 - d0, lower = d3 - d2;
      const T top = d0 + point.fraction_x * upper, bottom = d2 + point.fraction_x * lower, down = bottom - top;
      const T grad_weight = top + point.fraction_y * down;
      T grad_x = point.weight * (upper + point.fraction_y * (lower - upper)), grad_y = point.weight * down;
      if constexpr (!C::kFused) {
        grad_x *= static_cast<T>(point.level.width);
        grad_y *= static_cast<T>(point.level.height);
      }
      if (tuple.live) store<2>(Vector<T, 2>{{grad_x, grad_y}}, grad_positions + 2 * k);
      mean += point.weight * grad_weight;
      if constexpr (C::kFused) {
        group.shares[k].at[0] = grad_weight;
      } else {
        if (tuple.live) narrow(grad_weight, grad_weights[k]);
      }
    }
  }
  if constexpr (C::kFused) {  // through the softmax
    mean = sum_of_lanes(mean, lanes);
#pragma unroll
    for (int i = 0; i < own; ++i) {
      const int k = group.lane + i * lanes;
      if (k < count && tuple.live) narrow(weights.at(k) * (group.shares[k].at[0] - mean), grad_weights[k]);
    }
  }
}

// One lane's channels: what it reads of a row, and what it adds to one.
//
// A lane reads kVector neighbouring channels. If that is 8 and it added them as two fours, each addition of the group
// would touch every other 16 bytes, and every 32-byte sector twice. Where the group has a lane for every vector, a lane
// instead adds a four to the row's lower half and one to its upper half.
template <class C, class Sums>
struct Channels {
  using T = typename C::T;
  using V = typename C::V;
  static constexpr int N = C::kVector, kFour = N == 1 ? 1 : 4;
  static constexpr bool kHalves = C::kStatic && N == 8;
  const V* value;                     // the lane's part of the slice's first row
  typename Sums::Sum* to;             // the same of the value's gradient, where it adds
  Vector<T, N> grad;                  // the output's gradient: for dot products,
  Vector<T, kFour> added[N / kFour];  // and to be added

  __device__ __forceinline__ Channels(const Problem& p, const Tuple<C>& tuple, int v) {
    const V* grad_output = static_cast<const V*>(p.grad_output) + tuple.index * C::channels(p);
    const int first = kHalves ? 4 * v : N * v;
    value = static_cast<const V*>(p.value) + tuple.slice(p) + N * v;
    to = static_cast<typename Sums::Sum*>(p.sums) + tuple.slice(p) + first;
    grad = load<N>(grad_output + N * v);
#pragma unroll
    for (int h = 0; h < N / kFour; ++h) added[h] = load<kFour>(grad_output + first + h * step(p));
  }

  // From one four to the next.
  static __device__ __forceinline__ int step(const Problem& p) { return kHalves ? C::channels(p) / 2 : 4; }

  // The dot product of the gradient with a row, given by the vector at which it begins: this lane's part.
  __device__ __forceinline__ T dot(uint32_t row) const {
    const Vector<T, N> read = load<N>(value + static_cast<int64_t>(row) * N);
    T sum = 0;
#pragma unroll
    for (int j = 0; j < N; ++j) sum += grad.at[j] * read.at[j];
    return sum;
  }

  __device__ __forceinline__ void add_to(const Problem& p, const Sums& sums, uint32_t row, T share) const {
    if (share == 0) return;  // a corner outside, for one
#pragma unroll
    for (int h = 0; h < N / kFour; ++h) {
      Vector<T, kFour> term;
#pragma unroll
      for (int j = 0; j < kFour; ++j) term.at[j] = share * added[h].at[j];
      sums.add(to + static_cast<int64_t>(row) * N + h * step(p), term);
    }
  }
};

template <class C, bool kFixed>
__global__ void __launch_bounds__(kBackwardThreads) backward(const __grid_constant__ Problem p) {
  using T = typename C::T;
  using Sums = std::conditional_t<kFixed, FixedSums<T>, FloatSums<T>>;
  const int lanes = C::lanes(p), vectors = C::vectors(p), count = C::count(p);
  const Group<C> group(p);
  const Tile tile(p);
  const Sums sums(p);
#pragma unroll 1
  for (int item = group.number; item < p.tile_items; item += group.total) {
    const Tuple<C> tuple(p, tile, item);
    if (!__any_sync(kAllLanes, tuple.live)) continue;
    const Weights<C> weights(p, group, tuple);
    publish(p, group, tuple, weights);
    const Channels<C, Sums> only(p, tuple, min(group.lane, vectors - 1));  // of a static group, read once
    int level = 0, end = C::points(p);
#pragma unroll 1
    for (int first = 0; first < count; first += kBatch) {
      Corners<T> dots[kBatch] = {};
#pragma unroll
      for (int j = 0; j < kBatch; ++j) {
        const int k = first + j;
        if (k >= count) break;
        if (k == end) ++level, end += C::points(p);
        const Corners<T> shares = group.shares[k];
        const Rows rows(p, group.cells[k], level);
        const auto visit = [&](const Channels<C, Sums>& channels) {
#pragma unroll
          for (int c = 0; c < 4; ++c) dots[j].at[c] += channels.dot(rows.at[c]);
#pragma unroll
          for (int c = 0; c < 4; ++c) channels.add_to(p, sums, rows.at[c], shares.at[c]);
        };
        if constexpr (C::kStatic) {
          visit(only);
        } else {
          for (int v = group.lane; v < vectors; v += lanes) visit(Channels<C, Sums>(p, tuple, v));
        }
      }
      const Corners<T> mine = sum_batch(dots, group.lane, lanes);
      __syncwarp();  // all have read the batch's shares, whose place the sums take
      const int k = first + group.lane % kBatch;
      if (k < count && (k & (lanes - 1)) == group.lane) group.shares[k] = mine;
    }
    finish(p, group, tuple, weights);
  }
}

}  // namespace mtaclip::cuda

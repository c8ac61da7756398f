// The output: for each tuple, the sum over its points and their corners of share * row.
#pragma once

#include "points.cuh"

namespace mtaclip::cuda {

template <class C>
__global__ void __launch_bounds__(kForwardThreads, kForwardBlocks) forward(const __grid_constant__ Problem p) {
  using T = typename C::T;
  using V = typename C::V;
  constexpr int N = C::kVector;
  const int lanes = C::lanes(p), vectors = C::vectors(p), count = C::count(p);
  const Group<C> group(p);
  const Tile tile(p);
#pragma unroll 1
  for (int item = group.number; item < p.tile_items; item += group.total) {
    const Tuple<C> tuple(p, tile, item);
    if (!__any_sync(kAllLanes, tuple.live)) continue;
    publish(p, group, tuple, Weights<C>(p, group, tuple));
    const V* value = static_cast<const V*>(p.value) + tuple.slice(p);
    V* output = static_cast<V*>(p.output) + tuple.index * C::channels(p);
#pragma unroll
    for (int v = group.lane; v < vectors; v += lanes) {
      Vector<T, N> sum{};
      int level = 0, end = C::points(p);
#pragma unroll
      for (int k = 0; k < count; ++k) {
        if (k == end) ++level, end += C::points(p);
        const Corners<T> shares = group.shares[k];
        const Rows rows(p, group.cells[k], level);
        Vector<T, N> row[4];
#pragma unroll
        for (int c = 0; c < 4; ++c) row[c] = load<N>(value + static_cast<int64_t>(rows.at[c] + v) * N);
#pragma unroll
        for (int c = 0; c < 4; ++c) {
#pragma unroll
          for (int j = 0; j < N; ++j) sum.at[j] += shares.at[c] * row[c].at[j];
        }
      }
      if (tuple.live) store<N>(sum, output + v * N);
    }
    __syncwarp();  // the next tuple's points take the place of these
  }
}

}  // namespace mtaclip::cuda

// The gradients for 16-bit values: what the queries of a tile add to a pixel is summed in shared memory first.
//
// Neighbouring queries sample the same pixels over and over, and additions to memory are what bounds the kernel in
// backward.cuh. Here a block has one head of one tile of queries, and a window of kSide x kSide pixels that lies, level
// by level, around the mean of the tile's points. What they add to the window goes to memory once per pixel; points
// outside the window add to memory themselves.
//
// In shared memory a GPU adds integers at full speed and floats in a loop, so the window counts quanta. With |grad|
// below 2^a in the whole tile a quantum is 2^(a - 22), and a term is off by half a quantum at most: 2^-22 of the
// largest gradient, where the result is rounded to 2^-9 or 2^-12 of itself. The weights of a query sum to 1, so the
// sums of a tile stay below 2^28 quanta. Where gradients or a weight are not finite, points add to memory, too.
#pragma once

#include "backward.cuh"

namespace mtaclip::cuda {

constexpr int kSide = 15;  // pixels: with its points, a block stays below kSharedBytes
constexpr int kTuples = kTileWidth * kTileHeight;
constexpr int kMergedBlocks = 3;  // on a multiprocessor together: a thread gets 80 registers
constexpr int kQuantumBits = 22;
constexpr uint8_t kOutside = 255;  // instead of a pixel of the window
static_assert(kSide * kSide <= kOutside);

struct Pixel {
  int column, line;
};

// A power of two, and its inverse, by which the block's gradients become numbers of quanta below 2^kQuantumBits.
struct Quantum {
  static constexpr int kBias = 127, kMantissa = 23;
  float per_unit, size;
  bool usable;  // not for gradients that are not finite, or so small that a float cannot hold the quantum

  __device__ __forceinline__ explicit Quantum(uint32_t largest_bits) {
    const int above = static_cast<int>(largest_bits >> kMantissa) - kBias + 1, shift = kQuantumBits - above;
    usable = above <= kBias && shift < kBias;
    const uint32_t exponent = usable ? shift : 0;
    per_unit = from_bits((kBias + exponent) << kMantissa);
    size = from_bits((kBias - exponent) << kMantissa);
  }

  // The integer next to share * quanta, which is at most 2^kQuantumBits: a float of this size has ones in its last bit.
  static __device__ __forceinline__ int32_t count(float share, float quanta) {
    constexpr float kOnes = 3 << (kMantissa - 1);
    const float sum = fmaf(share, quanta, kOnes);
    int32_t bits, ones;
    memcpy(&bits, &sum, sizeof(bits));
    memcpy(&ones, &kOnes, sizeof(ones));
    return bits - ones;
  }
};

// What a block's lanes share, behind their groups' points.
template <class C>
struct Block {
  static constexpr int kChannels = C::kVector * C::kLanes, kThreads = kTuples * C::kLanes;
  static constexpr int kStride = point_stride(C::kLevels * C::kPoints), kPoints = kTuples * kStride;
  static constexpr int kWindow = kSide * kSide * kChannels, kCleared = kWindow + 2 * C::kLevels + 2;
  static constexpr int kBytes =
      kPoints * static_cast<int>(sizeof(Corners<float>) + sizeof(uint32_t) + sizeof(uint8_t)) + 4 * kCleared;

  int32_t* window;    // (kSide * kSide, D) numbers of quanta
  Pixel* sums;        // per level: of the columns and lines of the points
  int32_t* live;      // how many tuples are
  uint32_t* largest;  // bits of the largest |grad|
  uint8_t* places;    // (tuples, points) pixel of the window for the top left corner

  __device__ __forceinline__ Block() {
    extern __shared__ uint4 shared[];
    window = reinterpret_cast<int32_t*>(reinterpret_cast<Corners<float>*>(shared) + kPoints) + kPoints;
    sums = reinterpret_cast<Pixel*>(window + kWindow);
    live = reinterpret_cast<int32_t*>(sums + C::kLevels);
    largest = reinterpret_cast<uint32_t*>(live + 1);
    places = reinterpret_cast<uint8_t*>(largest + 1);
  }

  __device__ __forceinline__ void clear() const {
    for (int i = static_cast<int>(threadIdx.x); i < kCleared; i += kThreads) window[i] = 0;
  }

  // Take part in the sums and the largest gradient, with a lane's points (one of every level) and part of the gradient.
  __device__ __forceinline__ void note(const Tuple<C>& tuple, int lane, const Pixel (&pixels)[C::kLevels],
                                       const Vector<float, C::kVector>& grad) const {
    const bool first = threadIdx.x % 32 == 0;
    uint32_t bits = 0;
#pragma unroll
    for (int j = 0; j < C::kVector; ++j) bits = max(bits, static_cast<uint32_t>(magnitude_bits(grad.at[j])));
    bits = largest_of_lanes(tuple.live ? bits : 0, 32);
    const int tuples = sum_of_lanes(tuple.live && lane == 0 ? 1 : 0, 32);
    if (first) atomicMax(largest, bits), atomicAdd(live, tuples);
#pragma unroll
    for (int level = 0; level < C::kLevels; ++level) {
      const int columns = sum_of_lanes(tuple.live ? pixels[level].column : 0, 32);
      const int lines = sum_of_lanes(tuple.live ? pixels[level].line : 0, 32);
      if (first) atomicAdd(&sums[level].column, columns), atomicAdd(&sums[level].line, lines);
    }
  }

  // Where the window begins in a level: around the mean, and inside if it fits.
  __device__ __forceinline__ Pixel origin(const Problem& p, int level) const {
    const int count = max(*live, 1) * C::kPoints;
    const auto begin = [&](int sum, int size) {
      return min(max((sum + count / 2) / count - (kSide - 1) / 2, 0), max(size - kSide, 0));
    };
    return {begin(sums[level].column, p.level[level].width), begin(sums[level].line, p.level[level].height)};
  }

  // Where a point's top left corner is in a window that begins there; kOutside if not all its corners are inside.
  static __device__ __forceinline__ uint8_t place(const Pixel& pixel, uint32_t cell, const Pixel& begin) {
    const int column = pixel.column - begin.column, line = pixel.line - begin.line;
    const int right = cell & 1 ? 1 : 0, down = cell & 2 ? 1 : 0;
    const bool inside = column >= 0 && line >= 0 && column + right < kSide && line + down < kSide;
    return inside ? static_cast<uint8_t>(line * kSide + column) : kOutside;
  }

  // Add the window to memory, and clear it.
  __device__ __forceinline__ void flush(const Problem& p, const Tuple<C>& tuple, int level,
                                        const Quantum& quantum) const {
    constexpr int kFours = kChannels / 4;
    const Pixel begin = origin(p, level);
    const FloatSums<float> to(p);
    float* first = static_cast<float*>(p.sums) + tuple.slice(p);
    for (int i = static_cast<int>(threadIdx.x); i < kSide * kSide * kFours; i += kThreads) {
      auto* counts = reinterpret_cast<Vector<int32_t, 4>*>(window) + i;
      const Vector<int32_t, 4> counted = *counts;
      if ((counted.at[0] | counted.at[1] | counted.at[2] | counted.at[3]) == 0) continue;
      *counts = {};
      Vector<float, 4> sum;
#pragma unroll
      for (int j = 0; j < 4; ++j) sum.at[j] = static_cast<float>(counted.at[j]) * quantum.size;
      const int place = i / kFours, line = begin.line + place / kSide, column = begin.column + place % kSide;
      const int64_t pixel = p.level[level].first + line * p.level[level].width + column;
      to.add(first + (pixel * p.heads * kFours + i % kFours) * 4, sum);
    }
  }
};

template <class C>
__global__ void __launch_bounds__(Block<C>::kThreads, kMergedBlocks)
    merged_backward(const __grid_constant__ Problem p) {
  constexpr int N = C::kVector, kLevels = C::kLevels;
  static_assert(C::kFused && C::kPoints == C::kLanes && C::kPoints == kBatch);  // a lane has one point of a level
  static_assert(Block<C>::kBytes <= kSharedBytes);
  const Group<C> group(p);
  const Block<C> block;
  const Tuple<C> tuple(p, Tile(p), group.number);
  const Weights<C> weights(p, group, tuple);
  const FloatSums<float> sums(p);
  const Channels<C, FloatSums<float>> channels(p, tuple, group.lane);
  uint8_t* places = block.places + group.number * Block<C>::kStride;
  Pixel pixels[kLevels];
  block.clear();
#pragma unroll
  for (int level = 0; level < kLevels; ++level) {
    const int k = level * C::kPoints + group.lane;
    const Point<C> point(p, tuple, k, tuple.live ? weights.at(k) : 0);
    pixels[level] = {point.inner_column, point.inner_line};
    group.shares[k] = point.shares();
    group.cells[k] = point.cell;
  }
  __syncthreads();
  block.note(tuple, group.lane, pixels, channels.grad);
  __syncthreads();
  const Quantum quantum(*block.largest);
#pragma unroll
  for (int level = 0; level < kLevels; ++level) {
    const int k = level * C::kPoints + group.lane;
    const bool finite = quantum.usable && (!tuple.live || weights.at(k) <= 2);
    places[k] = finite ? block.place(pixels[level], group.cells[k], block.origin(p, level)) : kOutside;
  }
  __syncwarp();

  // The groups of a warp add their channels in different orders, so that no two of its lanes meet in a bank.
  const int own = N * group.lane + group.number % N;
  const auto* grad_output = static_cast<const typename C::V*>(p.grad_output) + tuple.index * Block<C>::kChannels;
  float quanta[N];
#pragma unroll
  for (int j = 0; j < N; ++j) quanta[j] = load<1>(grad_output + (own ^ j)).at[0] * quantum.per_unit;

#pragma unroll 1
  for (int level = 0; level < kLevels; ++level) {
    Corners<float> dots[kBatch] = {};
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
      const int k = level * C::kPoints + j;
      const Corners<float> shares = group.shares[k];
      const uint32_t cell = group.cells[k], place = places[k];
      const Rows rows(p, cell, level);
#pragma unroll
      for (int c = 0; c < 4; ++c) dots[j].at[c] = channels.dot(rows.at[c]);
      if (place == kOutside) {
#pragma unroll
        for (int c = 0; c < 4; ++c) channels.add_to(p, sums, rows.at[c], shares.at[c]);
      } else {
        const uint32_t right = cell & 1, down = cell & 2 ? kSide : 0;
        const uint32_t at[4] = {place, place + right, place + down, place + down + right};
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          if (shares.at[c] == 0) continue;
          const uint32_t first = at[c] * Block<C>::kChannels + own;
#pragma unroll
          for (int i = 0; i < N; ++i) atomicAdd(block.window + (first ^ i), Quantum::count(shares.at[c], quanta[i]));
        }
      }
    }
    const Corners<float> mine = sum_batch(dots, group.lane, C::kLanes);
    __syncwarp();  // all have read the level's shares, whose place the sums take
    group.shares[level * C::kPoints + group.lane] = mine;
    __syncthreads();
    block.flush(p, tuple, level, quantum);
    __syncthreads();
  }
  finish(p, group, tuple, weights);
}

}  // namespace mtaclip::cuda

// What the operators hand to the kernels, and how the work is split among blocks of threads. Plain C++.
//
// Letters: B images, L levels, S = sum of the levels' pixels, N queries, M heads, D channels per head, P points.
// A tuple is one (image, query, head). Its work is done by a group of neighbouring lanes of one warp.
#pragma once

#include <cstdint>

namespace mtaclip::cuda {

enum class ValueType { kFloat, kDouble, kHalf, kBFloat16 };

constexpr int kMaxLevels = 16;
constexpr int64_t kMaxPixels = int64_t{1} << 30;  // and vectors of an image's value: cells are 32 bits, two for steps
constexpr int kTileWidth = 8;    // queries
constexpr int kTileHeight = 8;   // at most
constexpr int kForwardThreads = 256;
constexpr int kForwardBlocks = 5;  // on a multiprocessor together: a thread gets 48 registers
constexpr int kBackwardThreads = 128;
constexpr int kSharedBytes = 48 * 1024;  // what every GPU gives a block without being asked
constexpr int kEnoughBlocks = 512;       // to keep a large GPU busy; with fewer, tiles are made smaller

// The largest magnitudes of a fixed-point sum's terms (bits of a float or double), and whether a term was not finite.
struct Bounds {
  unsigned long long grad, weight, poisoned;
};

struct Level {
  int32_t height, width, first;  // first: its first pixel among the S
};

// Queries that form an image, cut into tiles, so that the queries of one block sample the same pixels.
struct Map {
  int32_t height, width, first, first_tile, tiles_across;
};

// All tensors are contiguous, on 16-byte boundaries. "Precise" is double for double values, else float.
struct Problem {
  const void* value;             // (B, S, M, D)
  const void* reference_points;  // (N, 2) precise; fused only
  const void* positions;         // (B, N, M, L, P, 2) offsets in pixels, or locations in 0..1
  const void* weights;           // (B, N, M, L * P) logits, or weights
  void* output;                  // (B, N, M * D); forward only
  const void* grad_output;       // (B, N, M * D); backward only, and all below
  void* grad_value;
  void* grad_positions;
  void* grad_weights;
  void* sums;      // (B, S, M, D) zeros: int64 if fixed point, else precise (grad_value itself, if that is precise)
  Bounds* bounds;  // zeros; fixed point only

  ValueType type;
  bool fused;        // raw offsets and logits, or normalised locations and finished weights
  bool half_points;  // positions and weights have the value's 16-bit type, else they are precise
  bool fixed_point;  // the value's gradient is summed in integers, so that the order does not matter

  int32_t batch, pixels, queries, heads, channels, levels, points;
  Level level[kMaxLevels];

  // Filled in by `plan`.
  int32_t lanes;        // of a group: a power of two from 4 to 32
  int32_t vectors;      // of a row of D channels
  int32_t row_vectors;  // from a pixel to the next: M * vectors
  int32_t head_bits;    // a block has 2 ** head_bits heads
  int32_t tile_items;   // tuples of a block
  int32_t maps;
  Map map[kMaxLevels];
};

struct Plan {
  bool wide;  // rows are read in 16-byte vectors
  int32_t tiles, head_groups, threads, shared_bytes;
  const char* refusal;  // why the kernels cannot do it, or null
};

// The levels of `p` from (L, 2) heights and widths; false if there are too many, or one is empty or huge.
inline bool set_levels(Problem& p, const int64_t* shapes, int64_t levels) {
  if (levels > kMaxLevels) return false;
  int64_t pixels = 0;
  for (int64_t l = 0; l < levels; ++l) {
    const int64_t height = shapes[2 * l], width = shapes[2 * l + 1];
    if (height <= 0 || width <= 0 || height >= kMaxPixels || width >= kMaxPixels) return false;
    p.level[l] = {static_cast<int32_t>(height), static_cast<int32_t>(width), static_cast<int32_t>(pixels)};
    pixels += height * width;
    if (pixels >= kMaxPixels) return false;
  }
  p.levels = static_cast<int32_t>(levels);
  p.pixels = static_cast<int32_t>(pixels);
  return true;
}

// Points of a group in shared memory; odd, so that groups start in different banks.
constexpr int32_t point_stride(int32_t count) { return count | 1; }

inline int32_t plan_maps(Problem& p) {
  p.maps = p.queries == p.pixels ? p.levels : 1;
  int32_t tiles = 0;
  const int32_t tile_height = (p.tile_items >> p.head_bits) / kTileWidth;
  for (int32_t l = 0; l < p.maps; ++l) {
    Map& map = p.map[l];
    if (p.queries == p.pixels) {
      map.height = p.level[l].height, map.width = p.level[l].width, map.first = p.level[l].first;
    } else {  // queries that are no image: read them as one, row by row
      map.height = (p.queries + kTileWidth - 1) / kTileWidth, map.width = kTileWidth, map.first = 0;
    }
    map.first_tile = tiles;
    map.tiles_across = (map.width + kTileWidth - 1) / kTileWidth;
    tiles += map.tiles_across * ((map.height + tile_height - 1) / tile_height);
  }
  return tiles;
}

// Fill in the last part of `p`. `element_bytes`: of a value; `point_bytes`: of one point in shared memory.
inline Plan plan(Problem& p, int32_t element_bytes, int32_t point_bytes, int32_t threads) {
  Plan plan{};
  const int32_t count = p.levels * p.points;
  const int32_t vector = 16 / element_bytes;
  plan.wide = p.type != ValueType::kDouble && p.channels % vector == 0;
  p.vectors = plan.wide ? p.channels / vector : p.channels;
  const int64_t row_vectors = static_cast<int64_t>(p.heads) * p.vectors;
  p.row_vectors = static_cast<int32_t>(row_vectors);
  p.lanes = 4;
  while (p.lanes < 32 && p.lanes < p.vectors) p.lanes *= 2;
  const auto shared = [&] { return threads / p.lanes * static_cast<int64_t>(point_stride(count)) * point_bytes; };
  while (shared() > kSharedBytes && threads > 32) threads /= 2;
  while (shared() > kSharedBytes && p.lanes < 32) p.lanes *= 2;
  p.head_bits = p.heads % 2 == 0 ? 1 : 0;
  plan.head_groups = p.heads >> p.head_bits;
  if (shared() > kSharedBytes) {
    plan.refusal = "mtaclip: a query has more points than the CUDA kernels take.";
  } else if (row_vectors >= kMaxPixels || p.pixels * row_vectors >= kMaxPixels) {
    plan.refusal = "mtaclip: an image's value is larger than the CUDA kernels take.";
  } else if (p.batch > 65535 || p.heads > 65535) {
    plan.refusal = "mtaclip: the CUDA kernels take at most 65535 images and 65535 heads.";
  }
  if (plan.refusal != nullptr) return plan;
  const int32_t groups = threads / p.lanes;
  p.tile_items = (kTileWidth * kTileHeight) << p.head_bits;
  plan.tiles = plan_maps(p);
  while (p.tile_items > groups && p.tile_items > kTileWidth << p.head_bits &&
         static_cast<int64_t>(plan.tiles) * plan.head_groups * p.batch < kEnoughBlocks) {
    p.tile_items /= 2;
    plan.tiles = plan_maps(p);
  }
  plan.threads = threads;
  plan.shared_bytes = static_cast<int32_t>(shared());
  return plan;
}

}  // namespace mtaclip::cuda

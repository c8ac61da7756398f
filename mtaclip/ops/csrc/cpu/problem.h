// What the Python operators hand to a kernel, and the table of functions that one instruction set provides.
//
// Letters: B images, L levels, S = sum of the levels' pixels, N queries, M heads, D channels per head, P points.
#pragma once

#include <cstdint>

namespace mtaclip {

enum class ValueType { kFloat, kDouble, kBFloat16 };

using LoopBody = void (*)(void* context, int64_t begin, int64_t end);
// Calls `body` on pieces of [0, count) of at least `grain` items, on as many threads as PyTorch is set to.
using ParallelFor = void (*)(int64_t count, int64_t grain, LoopBody body, void* context);

// All tensors are contiguous. "Precise" is double for double values, else float.
struct Problem {
  ValueType type;
  int64_t batch, pixels, queries, heads, channels, levels, points;
  const int64_t* shapes;         // (L, 2) height, width
  bool fused;                    // raw offsets and logits, or normalised locations and finished weights
  const void* value;             // (B, S, M, D)
  const void* reference_points;  // (N, 2) precise; fused only
  const void* positions;         // (B, N, M, L, P, 2) precise: offsets in pixels, or locations in 0..1
  const void* weights;           // (B, N, M, L * P) precise: logits, or weights
  void* output;                  // (B, N, M * D); forward only
  const void* grad_output;       // (B, N, M * D); backward only, and the three below
  void* grad_value;
  void* grad_positions;
  void* grad_weights;
  void* scratch;  // `scratch_bytes`, aligned to 64 bytes
  int64_t threads;
  ParallelFor parallel_for;
};

struct Kernels {
  int64_t (*scratch_bytes)(const Problem&, bool back);
  void (*forward)(const Problem&);
  void (*backward)(const Problem&);
};

Kernels baseline_kernels();
#if defined(__x86_64__)
Kernels avx2_kernels();
Kernels avx512_kernels();
#endif

}  // namespace mtaclip

// The kernels behind a C function, for ctypes: test_cuda_kernels.py describes `Call` again.
#include "emulation.h"
// The kernels come after what stands in for CUDA.
#include "dispatch.cuh"

namespace mtaclip::cuda {
alignas(16) uint4 shared[emulation::kSharedVectors + emulation::kGuardVectors];
}

struct Call {
  const void *value, *reference_points, *positions, *weights, *grad_output;
  void *output, *grad_value, *grad_positions, *grad_weights, *sums, *bounds;
  const int64_t* shapes;
  int64_t batch, queries, heads, channels, levels, points;
  int64_t type, fused, half_points, fixed_point;
  int64_t seed, forward;
};

// Why it did not work, or an empty text.
extern "C" const char* emulate(const Call* call) {
  using namespace mtaclip::cuda;
  static std::string message;
  Problem p{};
  p.value = call->value, p.reference_points = call->reference_points;
  p.positions = call->positions, p.weights = call->weights, p.grad_output = call->grad_output;
  p.output = call->output, p.grad_value = call->grad_value, p.sums = call->sums;
  p.grad_positions = call->grad_positions, p.grad_weights = call->grad_weights;
  p.bounds = static_cast<Bounds*>(call->bounds);
  p.type = static_cast<ValueType>(call->type);
  p.fused = call->fused, p.half_points = call->half_points, p.fixed_point = call->fixed_point;
  p.batch = static_cast<int32_t>(call->batch), p.queries = static_cast<int32_t>(call->queries);
  p.heads = static_cast<int32_t>(call->heads), p.channels = static_cast<int32_t>(call->channels);
  p.points = static_cast<int32_t>(call->points);
  if (!set_levels(p, call->shapes, call->levels)) return "levels";
  std::mt19937_64 random(static_cast<uint64_t>(call->seed));
  const emulation::Launch launch{random, shared};
  try {
    const char* refusal = with_kernels(
        p, [&](auto k) { return call->forward ? k.run_forward(p, launch) : k.run_backward(p, launch); });
    message = refusal == nullptr ? "" : refusal;
  } catch (const std::exception& error) {
    message = error.what();
  }
  return message.c_str();
}

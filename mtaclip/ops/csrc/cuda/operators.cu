// The operators of mtaclip/ops/library.py on NVIDIA's GPUs, registered through PyTorch's stable binary interface.
// Everything runs on PyTorch's current stream and in its memory, and the host waits for nothing, so that a CUDA graph
// can be captured.
#include <cuda_runtime_api.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <limits>
#include <tuple>
#include <vector>

#include "launch.h"

#define MTACLIP_TEXT_OF(x) #x
#define MTACLIP_TEXT(x) MTACLIP_TEXT_OF(x)

// Read by mtaclip/ops/compiled.py from the file itself, so that it can tell even when the file does not load.
extern "C" __attribute__((used, visibility("default"))) const char mtaclip_built_for[] =
    "mtaclip-built-for-torch=" MTACLIP_TEXT(MTACLIP_TORCH) ";cuda=" MTACLIP_TEXT(MTACLIP_CUDA) ";";

namespace mtaclip::cuda {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using torch::stable::accelerator::DeviceGuard;

ValueType value_type(ScalarType type) {
  switch (type) {
    case ScalarType::Float:
      return ValueType::kFloat;
    case ScalarType::Double:
      return ValueType::kDouble;
    case ScalarType::Half:
      return ValueType::kHalf;
    case ScalarType::BFloat16:
      return ValueType::kBFloat16;
    default:
      STD_TORCH_CHECK(false, "mtaclip: value must be float32, float64, float16 or bfloat16 on a GPU.");
  }
}

int32_t gpu_of(const Tensor& value) {
  STD_TORCH_CHECK(value.is_cuda(), "mtaclip: value is not on a GPU, and another argument is.");
  return value.get_device_index();
}

void check(const Tensor& tensor, const char* name, ScalarType type, const std::vector<int64_t>& shape,
           const Tensor& value) {
  bool equal = tensor.dim() == static_cast<int64_t>(shape.size());
  for (size_t i = 0; equal && i < shape.size(); ++i) equal = tensor.size(i) == shape[i];
  STD_TORCH_CHECK(equal, "mtaclip: ", name, " has a shape that does not fit the value and the positions.");
  STD_TORCH_CHECK(tensor.scalar_type() == type, "mtaclip: ", name, " has a data type that does not fit the value.");
  STD_TORCH_CHECK(tensor.is_cuda() && tensor.get_device_index() == value.get_device_index(), "mtaclip: ", name,
                  " is not on the value's device.");
}

// Contiguous and on a 16-byte boundary, as PyTorch's own allocations are, and views into them need not be.
Tensor ready(const Tensor& tensor) {
  const Tensor result = torch::stable::contiguous(tensor);
  const bool aligned = reinterpret_cast<uintptr_t>(result.const_data_ptr()) % 16 == 0;
  return aligned ? result : torch::stable::clone(result);
}

int32_t checked(int64_t size) {
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max() / 64;  // so that small multiples fit, too
  STD_TORCH_CHECK(size < kMost, "mtaclip: a tensor is too large for the CUDA kernels.");
  return static_cast<int32_t>(size);
}

// The tensors of a call, and the problem that points into them.
struct Call {
  DeviceGuard guard;
  Tensor value, reference_points, positions, weights;
  ScalarType precise;
  Problem problem;

  Call(const Tensor& v, const Tensor* reference, const Tensor& where, const Tensor& how_much,
       const std::vector<int64_t>& shapes)
      : guard(gpu_of(v)),
        value(ready(v)),
        reference_points(reference == nullptr ? value : ready(*reference)),
        positions(ready(where)),
        weights(ready(how_much)),
        precise(v.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float),
        problem{} {
    STD_TORCH_CHECK(value.dim() == 4 && positions.dim() == 6, "mtaclip: value must be (B, S, M, D), positions 6-D.");
    Problem& p = problem;
    p.type = value_type(value.scalar_type());
    p.fused = reference != nullptr;
    p.half_points = p.fused && precise != value.scalar_type() && positions.scalar_type() == value.scalar_type();
    p.batch = checked(value.size(0)), p.heads = checked(value.size(2)), p.channels = checked(value.size(3));
    p.queries = checked(positions.size(1)), p.points = checked(positions.size(4));
    const int64_t levels = static_cast<int64_t>(shapes.size()) / 2;
    STD_TORCH_CHECK(set_levels(p, shapes.data(), levels),
                    "mtaclip: spatial_shapes must be positive, and at most 16 levels of 2^30 pixels in all on a GPU.");
    STD_TORCH_CHECK(p.pixels == value.size(1), "mtaclip: spatial_shapes do not fit the value.");
    const ScalarType type = p.half_points ? value.scalar_type() : precise;
    const int64_t b = p.batch, n = p.queries, m = p.heads, l = p.levels, points = p.points;
    check(positions, "positions", type, {b, n, m, l, points, 2}, value);
    if (p.fused) {
      check(weights, "attention_logits", type, {b, n, m, l * points}, value);
      check(reference_points, "reference_points", precise, {n, 2}, value);
    } else {
      check(weights, "attention_weights", type, {b, n, m, l, points}, value);
    }
    p.value = value.const_data_ptr();
    p.reference_points = reference_points.const_data_ptr();
    p.positions = positions.const_data_ptr();
    p.weights = weights.const_data_ptr();
  }

  bool nothing_to_do() const {
    const Problem& p = problem;
    return p.batch == 0 || p.queries == 0 || p.heads == 0 || p.channels == 0 || p.levels == 0 || p.points == 0;
  }

  std::vector<int64_t> output_shape() const {
    return {problem.batch, problem.queries, static_cast<int64_t>(problem.heads) * problem.channels};
  }

  void run(Outcome (*kernels)(Problem&, cudaStream_t)) {
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(value.get_device_index(), &stream));
    const Outcome outcome = kernels(problem, static_cast<cudaStream_t>(stream));
    STD_TORCH_CHECK(outcome.refusal == nullptr, outcome.refusal);
    STD_CUDA_CHECK(outcome.error);
  }
};

Tensor forward(Call call) {
  Tensor output = torch::stable::new_empty(call.value, call.output_shape());
  if (call.nothing_to_do()) return torch::stable::zero_(output);
  call.problem.output = output.mutable_data_ptr();
  call.run(run_forward);
  return output;
}

using Gradients = std::tuple<Tensor, Tensor, Tensor>;

Gradients backward(Call call, const Tensor& grad_output, bool deterministic) {
  Problem& p = call.problem;
  const Tensor grad = ready(grad_output);
  check(grad, "the output's gradient", call.value.scalar_type(), call.output_shape(), call.value);
  Gradients result{torch::stable::empty_like(call.value), torch::stable::empty_like(call.positions),
                   torch::stable::empty_like(call.weights)};
  auto& [value, positions, weights] = result;
  if (call.nothing_to_do()) {
    torch::stable::zero_(value), torch::stable::zero_(positions), torch::stable::zero_(weights);
    return result;
  }
  p.fixed_point = deterministic;
  const bool summed_in_place = !deterministic && call.precise == call.value.scalar_type();
  Tensor sums = summed_in_place ? torch::stable::zero_(value)
                                : torch::stable::new_zeros(call.value, {call.value.numel()},
                                                           deterministic ? ScalarType::Long : call.precise);
  Tensor bounds = sums;
  if (deterministic) {
    bounds = torch::stable::new_zeros(call.value, {sizeof(Bounds) / sizeof(int64_t)}, ScalarType::Long);
    p.bounds = static_cast<Bounds*>(bounds.mutable_data_ptr());
  }
  p.grad_output = grad.const_data_ptr();
  p.grad_value = value.mutable_data_ptr();
  p.grad_positions = positions.mutable_data_ptr();
  p.grad_weights = weights.mutable_data_ptr();
  p.sums = sums.mutable_data_ptr();
  call.run(run_backward);
  return result;
}

Tensor fused(const Tensor& value, const Tensor& reference_points, const Tensor& sampling_offsets,
             const Tensor& attention_logits, std::vector<int64_t> shapes) {
  return forward(Call(value, &reference_points, sampling_offsets, attention_logits, shapes));
}

Gradients fused_backward(const Tensor& grad, const Tensor& value, const Tensor& reference_points,
                         const Tensor& sampling_offsets, const Tensor& attention_logits, std::vector<int64_t> shapes,
                         bool deterministic) {
  return backward(Call(value, &reference_points, sampling_offsets, attention_logits, shapes), grad, deterministic);
}

Tensor classic(const Tensor& value, const Tensor& sampling_locations, const Tensor& attention_weights,
               std::vector<int64_t> shapes) {
  return forward(Call(value, nullptr, sampling_locations, attention_weights, shapes));
}

Gradients classic_backward(const Tensor& grad, const Tensor& value, const Tensor& sampling_locations,
                           const Tensor& attention_weights, std::vector<int64_t> shapes, bool deterministic) {
  return backward(Call(value, nullptr, sampling_locations, attention_weights, shapes), grad, deterministic);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mtaclip, CUDA, library) {
  library.impl("ms_deform_attn", TORCH_BOX(&fused));
  library.impl("ms_deform_attn_backward", TORCH_BOX(&fused_backward));
  library.impl("ms_deform_attn_classic", TORCH_BOX(&classic));
  library.impl("ms_deform_attn_classic_backward", TORCH_BOX(&classic_backward));
}

}  // namespace mtaclip::cuda

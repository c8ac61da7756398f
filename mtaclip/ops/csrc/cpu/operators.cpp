// The operators of mtaclip/ops/library.py on the CPU, registered through PyTorch's stable binary interface. The Python
// side defines the schemas and checks shapes; here only what memory safety needs is checked again.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cstdlib>
#include <cstring>
#include <tuple>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "problem.h"

#define MTACLIP_TEXT_OF(x) #x
#define MTACLIP_TEXT(x) MTACLIP_TEXT_OF(x)

// Read by mtaclip/ops/compiled.py from the file itself, so that it can tell even when the file does not load. setup.py
// gives the version of PyTorch and, after a semicolon, the number of the operators' interface.
extern "C" __attribute__((used, visibility("default"))) const char mtaclip_built_for[] =
    "mtaclip-built-for-torch=" MTACLIP_TEXT(MTACLIP_TORCH) ";";

namespace mtaclip {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

struct Choice {
  Kernels kernels;
  const char* name;
};

// The best that the processor and MTACLIP_CPU allow; mtaclip/ops/compiled.py refuses a value that leads elsewhere.
Choice choose_kernels() {
#if defined(__x86_64__)
  const char* wanted = std::getenv("MTACLIP_CPU");
  const auto allowed = [&](const char* name) {
    return wanted == nullptr || *wanted == '\0' || std::strcmp(wanted, name) == 0;
  };
  __builtin_cpu_init();
  const bool fused = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool wide = fused && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                    __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
  if (wide && allowed("avx512")) return {avx512_kernels(), "avx512"};
  if (fused && allowed("avx2")) return {avx2_kernels(), "avx2"};
#endif
  return {baseline_kernels(), "baseline"};
}

const Choice& chosen() {
  static const Choice choice = choose_kernels();
  return choice;
}

void parallel_for(int64_t count, int64_t grain, LoopBody body, void* context) {
  torch::stable::parallel_for(0, count, grain, [&](int64_t begin, int64_t end) { body(context, begin, end); });
}

ValueType value_type(const Tensor& value) {
  switch (value.scalar_type()) {
    case ScalarType::Float:
      return ValueType::kFloat;
    case ScalarType::Double:
      return ValueType::kDouble;
    case ScalarType::BFloat16:
      return ValueType::kBFloat16;
    default:
      STD_TORCH_CHECK(false, "mtaclip: value must be float32, float64 or bfloat16 on the CPU.");
  }
}

void check(const Tensor& tensor, const char* name, ScalarType type, const std::vector<int64_t>& shape) {
  bool equal = tensor.dim() == static_cast<int64_t>(shape.size());
  for (size_t i = 0; equal && i < shape.size(); ++i) equal = tensor.size(i) == shape[i];
  STD_TORCH_CHECK(equal, "mtaclip: ", name, " has a shape that does not fit the value and the positions.");
  STD_TORCH_CHECK(tensor.scalar_type() == type, "mtaclip: ", name, " has a data type that does not fit the value.");
}

// The tensors of a call, contiguous, and the problem that points into them.
struct Call {
  Tensor value, reference_points, positions, weights, scratch;
  std::vector<int64_t> shapes;
  ScalarType precise;
  Problem problem;

  Call(const Tensor& v, const Tensor* reference, const Tensor& where, const Tensor& how_much,
       std::vector<int64_t> sizes)
      : value(torch::stable::contiguous(v)),
        reference_points(reference == nullptr ? value : torch::stable::contiguous(*reference)),
        positions(torch::stable::contiguous(where)),
        weights(torch::stable::contiguous(how_much)),
        scratch(value),
        shapes(std::move(sizes)),
        precise(v.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float),
        problem{} {
    STD_TORCH_CHECK(value.dim() == 4 && positions.dim() == 6, "mtaclip: value must be (B, S, M, D) and positions 6-D.");
    Problem& p = problem;
    p.type = value_type(value);
    p.batch = value.size(0), p.pixels = value.size(1), p.heads = value.size(2), p.channels = value.size(3);
    p.queries = positions.size(1), p.levels = static_cast<int64_t>(shapes.size()) / 2, p.points = positions.size(4);
    int64_t pixels = 0;
    for (int64_t l = 0; l < p.levels; ++l) {
      STD_TORCH_CHECK(shapes[2 * l] > 0 && shapes[2 * l + 1] > 0, "mtaclip: spatial_shapes must be positive.");
      pixels += shapes[2 * l] * shapes[2 * l + 1];
    }
    // Rows of a slice, zeros included, are at most eight per pixel and are counted in 32 bits.
    STD_TORCH_CHECK(pixels == p.pixels && pixels < (int64_t{1} << 28), "mtaclip: spatial_shapes do not fit the value.");
    check(positions, "positions", precise, {p.batch, p.queries, p.heads, p.levels, p.points, 2});
    if (reference == nullptr) {
      check(weights, "attention_weights", precise, {p.batch, p.queries, p.heads, p.levels, p.points});
    } else {
      check(weights, "attention_logits", precise, {p.batch, p.queries, p.heads, p.levels * p.points});
      check(reference_points, "reference_points", precise, {p.queries, 2});
    }
    p.shapes = shapes.data();
    p.fused = reference != nullptr;
    p.value = value.const_data_ptr();
    p.reference_points = reference_points.const_data_ptr();
    p.positions = positions.const_data_ptr();
    p.weights = weights.const_data_ptr();
    p.threads = torch::stable::get_num_threads();
    p.parallel_for = parallel_for;
  }

  void take_scratch(bool back) {
    Problem& p = problem;
    scratch = torch::stable::new_empty(value, {chosen().kernels.scratch_bytes(p, back) / 4 + 16}, ScalarType::Float);
    const uintptr_t start = reinterpret_cast<uintptr_t>(scratch.mutable_data_ptr());
    p.scratch = reinterpret_cast<void*>((start + 63) & ~static_cast<uintptr_t>(63));
  }

  bool nothing_to_do() const {
    const Problem& p = problem;
    return p.batch * p.queries * p.heads * p.channels * p.levels * p.points == 0;
  }
};

// A result as it comes from new_empty. From 32 MiB on, glibc maps every tensor anew, and the kernels would be stopped at
// the first touch of each 4 KiB of it: ask for pages of 2 MiB, which changes nothing where the system has none to give.
Tensor with_large_pages(Tensor tensor) {
#if defined(__linux__)
  const int64_t bytes = tensor.numel() * static_cast<int64_t>(tensor.element_size());
  if (bytes >= int64_t{32} << 20) {
    constexpr uintptr_t kPage = 2 << 20;
    const uintptr_t start = reinterpret_cast<uintptr_t>(tensor.mutable_data_ptr());
    const uintptr_t first = (start + kPage - 1) / kPage * kPage, last = (start + bytes) / kPage * kPage;
    madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
  }
#endif
  return tensor;
}

Tensor run_forward(Call call) {
  Problem& p = call.problem;
  Tensor output = with_large_pages(torch::stable::new_empty(call.value, {p.batch, p.queries, p.heads * p.channels}));
  if (call.nothing_to_do()) return torch::stable::zero_(output);
  p.output = output.mutable_data_ptr();
  call.take_scratch(false);
  chosen().kernels.forward(p);
  return output;
}

using Gradients = std::tuple<Tensor, Tensor, Tensor>;

Gradients run_backward(Call call, const Tensor& grad_output) {
  Problem& p = call.problem;
  const Tensor grad = torch::stable::contiguous(grad_output);
  check(grad, "the output's gradient", call.value.scalar_type(), {p.batch, p.queries, p.heads * p.channels});
  Gradients result{with_large_pages(torch::stable::empty_like(call.value)),
                   with_large_pages(torch::stable::empty_like(call.positions)),
                   with_large_pages(torch::stable::empty_like(call.weights))};
  auto& [value, positions, weights] = result;
  if (call.nothing_to_do()) {
    torch::stable::zero_(value), torch::stable::zero_(positions), torch::stable::zero_(weights);
    return result;
  }
  p.grad_output = grad.const_data_ptr();
  p.grad_value = value.mutable_data_ptr();
  p.grad_positions = positions.mutable_data_ptr();
  p.grad_weights = weights.mutable_data_ptr();
  call.take_scratch(true);
  chosen().kernels.backward(p);
  return result;
}

Tensor fused(const Tensor& value, const Tensor& reference_points, const Tensor& sampling_offsets,
             const Tensor& attention_logits, std::vector<int64_t> shapes) {
  return run_forward(Call(value, &reference_points, sampling_offsets, attention_logits, std::move(shapes)));
}

Gradients fused_backward(const Tensor& grad, const Tensor& value, const Tensor& reference_points,
                         const Tensor& sampling_offsets, const Tensor& attention_logits, std::vector<int64_t> shapes,
                         bool /* deterministic: always */) {
  return run_backward(Call(value, &reference_points, sampling_offsets, attention_logits, std::move(shapes)), grad);
}

Tensor classic(const Tensor& value, const Tensor& sampling_locations, const Tensor& attention_weights,
               std::vector<int64_t> shapes) {
  return run_forward(Call(value, nullptr, sampling_locations, attention_weights, std::move(shapes)));
}

Gradients classic_backward(const Tensor& grad, const Tensor& value, const Tensor& sampling_locations,
                           const Tensor& attention_weights, std::vector<int64_t> shapes,
                           bool /* deterministic: always */) {
  return run_backward(Call(value, nullptr, sampling_locations, attention_weights, std::move(shapes)), grad);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mtaclip, CPU, library) {
  library.impl("ms_deform_attn", TORCH_BOX(&fused));
  library.impl("ms_deform_attn_backward", TORCH_BOX(&fused_backward));
  library.impl("ms_deform_attn_classic", TORCH_BOX(&classic));
  library.impl("ms_deform_attn_classic_backward", TORCH_BOX(&classic_backward));
}

}  // namespace mtaclip

// Which instruction set this process uses: "avx512", "avx2" or "baseline".
extern "C" __attribute__((visibility("default"))) const char* mtaclip_cpu_kernels() { return mtaclip::chosen().name; }

// From a problem to kernels. `launch(kernel, blocks, threads, shared bytes, arguments ...)` starts one: on a GPU, or in
// the tests on the processor.
#pragma once

#include "backward.cuh"
#include "forward.cuh"
#include "merged.cuh"

namespace mtaclip::cuda {

template <class V, class W, bool kFused>
struct Kernels {
  using T = Precise<V>;
  // The configuration of the published models: 32 channels, 3 levels, 4 points.
  using Usual = Config<V, W, kFused, kWide<V>, 32 / kWide<V>, 3, 4>;
  using Wide = Config<V, W, kFused, kWide<V>>;
  using Narrow = Config<V, W, kFused, 1>;

  static Plan make_plan(Problem& p, int threads) {
    return plan(p, static_cast<int>(sizeof(V)), static_cast<int>(sizeof(Corners<T>) + sizeof(uint32_t)), threads);
  }

  static bool usual(const Problem& p, const Plan& plan) {
    return plan.wide && p.channels == 32 && p.levels == 3 && p.points == 4;
  }

  template <class Launch>
  static const char* run_forward(Problem& p, const Launch& launch) {
    const Plan plan = make_plan(p, kForwardThreads);
    if (plan.refusal != nullptr) return plan.refusal;
    const auto run = [&](auto* kernel) { launch(kernel, blocks(p, plan), plan.threads, plan.shared_bytes, p); };
    if constexpr (kWide<V> > 1) {
      if (plan.wide) return run(usual(p, plan) ? forward<Usual> : forward<Wide>), nullptr;
    }
    run(forward<Narrow>);
    return nullptr;
  }

  template <class Launch>
  static const char* run_backward(Problem& p, const Launch& launch) {
    const Plan plan = make_plan(p, kBackwardThreads);
    if (plan.refusal != nullptr) return plan.refusal;
    if (p.fixed_point) {
      const int64_t tuples = static_cast<int64_t>(p.batch) * p.queries * p.heads;
      const auto bound = [&](const auto* x, int64_t n, unsigned long long* result) {
        launch(largest_magnitude<std::decay_t<decltype(*x)>>, dim3(enough(n)), kForwardThreads, 0, x, n, result);
      };
      bound(static_cast<const V*>(p.grad_output), tuples * p.channels, &p.bounds->grad);
      if (!kFused) bound(static_cast<const W*>(p.weights), tuples * p.levels * p.points, &p.bounds->weight);
    }
    const auto run = [&](auto* kernel) { launch(kernel, blocks(p, plan), plan.threads, plan.shared_bytes, p); };
    const auto run_either = [&]<class C>(C) { run(p.fixed_point ? backward<C, true> : backward<C, false>); };
    if constexpr (kWide<V> > 1) {
      if (usual(p, plan) && !p.fixed_point) {
        if constexpr (kFused && sizeof(V) == 2) {
          p.head_bits = 0, p.tile_items = kTuples;
          const dim3 blocks(plan_maps(p), p.heads, p.batch);
          launch(merged_backward<Usual>, blocks, Block<Usual>::kThreads, Block<Usual>::kBytes, p);
        } else {
          run(backward<Usual, false>);
        }
      } else if (plan.wide) {
        run_either(Wide{});
      } else {
        run_either(Narrow{});
      }
    } else {
      run_either(Narrow{});
    }
    const int64_t n = static_cast<int64_t>(p.batch) * p.pixels * p.heads * p.channels;
    if (p.fixed_point) {
      launch(from_fixed_point<V>, dim3(enough(n)), kForwardThreads, 0, p, n);
    } else if constexpr (sizeof(V) == 2) {
      launch(from_float<V>, dim3(enough(n)), kForwardThreads, 0, p, n);
    }
    return nullptr;
  }

 private:
  static dim3 blocks(const Problem& p, const Plan& plan) {
    return dim3(plan.tiles, plan.head_groups, p.batch);
  }

  static unsigned enough(int64_t n) {
    const int64_t blocks = (n + kForwardThreads - 1) / kForwardThreads;
    return static_cast<unsigned>(blocks < 8 * kEnoughBlocks ? blocks : 8 * kEnoughBlocks);
  }
};

// Calls `body(Kernels<...>{})` with the types that the problem names.
template <class F>
auto with_kernels(const Problem& p, const F& body) {
  const auto by_points = [&]<class V>(V*) {
    if (!p.fused) return body(Kernels<V, Precise<V>, false>{});
    if constexpr (sizeof(V) == 2) {
      if (p.half_points) return body(Kernels<V, V, true>{});
    }
    return body(Kernels<V, Precise<V>, true>{});
  };
  switch (p.type) {
    case ValueType::kDouble:
      return by_points(static_cast<double*>(nullptr));
    case ValueType::kHalf:
      return by_points(static_cast<__half*>(nullptr));
    case ValueType::kBFloat16:
      return by_points(static_cast<__nv_bfloat16*>(nullptr));
    default:
      return by_points(static_cast<float*>(nullptr));
  }
}

}  // namespace mtaclip::cuda

// Runs CUDA kernels on the processor, one thread after another, for tests.
//
// Every lane of a warp is a fiber that runs until it must wait for others: at a shuffle, a vote, __syncwarp or
// __syncthreads. The order of blocks, of a block's warps, and of lanes whenever they run again, is drawn from a seed;
// results that depend on it come from a missing synchronisation or from the order of atomic additions.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#undef __global__
#undef __device__
#undef __shared__
#undef __launch_bounds__
#undef __grid_constant__
#undef __forceinline__
#define __global__
#define __device__
#define __shared__
#define __launch_bounds__(...)
#define __grid_constant__
#define __forceinline__ inline

using std::max;
using std::min;

inline dim3 blockIdx, blockDim, gridDim, threadIdx;

namespace emulation {

constexpr int kLanes = 32, kWarps = 32;
constexpr size_t kStackBytes = 256 * 1024;
constexpr size_t kSharedVectors = 48 * 1024 / 16, kGuardVectors = 64;

struct Fiber {
  std::unique_ptr<char[]> stack{new char[kStackBytes]};
  ucontext_t start;
  jmp_buf resume;
  bool started, done, waiting, at_barrier;
  int generation;  // what it waits for the end of, in its warp
};

struct Warp {
  Fiber fibers[kLanes];
  int lane, arrived, generation, kind;
  uint64_t slots[2][kLanes];
  jmp_buf scheduler;
};

// What all warps run, and what is wrong with it.
inline void (*body)(void*);
inline void* context;
inline const char* fault;
inline std::unique_ptr<Warp> warps[kWarps];
inline Warp* warp;  // the one that runs

[[noreturn]] inline void leave() { _longjmp(warp->scheduler, 1); }

inline void enter() {
  body(context);
  warp->fibers[warp->lane].done = true;
  leave();
}

// Waits until every lane has called it with the same kind; returns what they brought.
inline const uint64_t* meet(unsigned mask, int kind, uint64_t brought) {
  Fiber& self = warp->fibers[warp->lane];
  const int generation = warp->generation;
  if (mask != 0xffffffffu) fault = "a part of a warp synchronises";
  if (warp->arrived > 0 && warp->kind != kind) fault = "lanes of a warp meet at different operations";
  warp->kind = kind;
  warp->slots[generation % 2][warp->lane] = brought;
  if (++warp->arrived == kLanes) {
    warp->arrived = 0;
    ++warp->generation;
  } else {
    self.waiting = true;
    self.generation = generation;
    if (_setjmp(self.resume) == 0) leave();
    self.waiting = false;
  }
  return warp->slots[generation % 2];
}

inline void run_lane(int lane) {
  Fiber& fiber = warp->fibers[lane];
  warp->lane = lane;
  threadIdx.x = threadIdx.x / kLanes * kLanes + lane;
  if (_setjmp(warp->scheduler) != 0) return;
  if (fiber.started) _longjmp(fiber.resume, 1);
  fiber.started = true;
  getcontext(&fiber.start);
  fiber.start.uc_stack = {fiber.stack.get(), 0, kStackBytes};
  fiber.start.uc_link = nullptr;
  makecontext(&fiber.start, enter, 0);
  setcontext(&fiber.start);
}

// Runs a warp until all its lanes have ended (true) or are at the block's barrier.
inline bool run_warp(unsigned number, std::mt19937_64& random) {
  warp = warps[number].get();
  threadIdx = dim3(number * kLanes);
  int order[kLanes];
  std::iota(order, order + kLanes, 0);
  for (bool progress = true; progress && fault == nullptr;) {
    std::shuffle(order, order + kLanes, random);
    progress = false;
    for (const int lane : order) {
      Fiber& fiber = warp->fibers[lane];
      if (fiber.done || fiber.at_barrier || (fiber.waiting && fiber.generation == warp->generation)) continue;
      run_lane(lane);
      progress = true;
    }
  }
  const auto all = [](bool Fiber::*state) {
    return std::all_of(warp->fibers, warp->fibers + kLanes, [=](const Fiber& fiber) { return fiber.*state; });
  };
  const bool done = all(&Fiber::done);
  if (!done && !all(&Fiber::at_barrier)) fault = "some lanes of a warp have ended, and others wait for them";
  return done;
}

inline std::vector<unsigned> shuffled(unsigned count, std::mt19937_64& random) {
  std::vector<unsigned> order(count);
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), random);
  return order;
}

// Runs a block's warps from barrier to barrier.
inline void run_block(unsigned count, std::mt19937_64& random) {
  for (unsigned number = 0; number < count; ++number) {
    if (!warps[number]) warps[number] = std::make_unique<Warp>();
    warps[number]->arrived = warps[number]->generation = 0;
    for (Fiber& fiber : warps[number]->fibers) {
      fiber.started = fiber.done = fiber.waiting = fiber.at_barrier = false;
    }
  }
  for (unsigned done = 0; done < count && fault == nullptr;) {
    done = 0;
    for (const unsigned number : shuffled(count, random)) done += run_warp(number, random);
    if (done > 0 && done < count) fault = "some warps of a block have ended, and others wait for them";
    for (unsigned number = 0; number < count; ++number) {
      for (Fiber& fiber : warps[number]->fibers) fiber.at_barrier = false;
    }
  }
}

// Runs a kernel's blocks; `shared` is the memory that the kernel declares `extern __shared__`.
struct Launch {
  std::mt19937_64& random;
  uint4* shared;

  template <class... Parameters, class... Arguments>
  void operator()(void (*kernel)(Parameters...), dim3 blocks, int threads, int shared_bytes,
                  Arguments... arguments) const {
    const auto call = [&] { kernel(arguments...); };
    body = [](void* context) { (*static_cast<decltype(call)*>(context))(); };
    context = const_cast<void*>(static_cast<const void*>(&call));
    fault = nullptr;
    blockDim = dim3(threads), gridDim = blocks;
    const size_t used = (static_cast<size_t>(shared_bytes) + 15) / 16;
    if (used > kSharedVectors || threads % kLanes != 0 || threads > kLanes * kWarps) {
      throw std::runtime_error("the launch asks for too much");
    }
    for (const unsigned block : shuffled(blocks.x * blocks.y * blocks.z, random)) {
      blockIdx = dim3(block % blocks.x, block / blocks.x % blocks.y, block / blocks.x / blocks.y);
      std::memset(shared, 0, (used + kGuardVectors) * sizeof(uint4));
      run_block(threads / kLanes, random);
      const char* guard = reinterpret_cast<const char*>(shared) + shared_bytes;
      if (std::any_of(guard, guard + kGuardVectors * sizeof(uint4), [](char c) { return c != 0; })) {
        fault = "a block writes behind its shared memory";
      }
      if (fault != nullptr) throw std::runtime_error(fault);
    }
  }
};

}  // namespace emulation

inline void __syncwarp(unsigned mask = 0xffffffffu) { emulation::meet(mask, -1, 0); }

// Every thread of the block must come here; lanes of a warp do so together.
inline void __syncthreads() {
  emulation::meet(0xffffffffu, -3, 0);
  emulation::Fiber& self = emulation::warp->fibers[emulation::warp->lane];
  self.at_barrier = true;
  if (_setjmp(self.resume) == 0) emulation::leave();
}

inline bool __any_sync(unsigned mask, bool x) {
  const uint64_t* votes = emulation::meet(mask, -2, x);
  return std::any_of(votes, votes + emulation::kLanes, [](uint64_t vote) { return vote != 0; });
}

template <class T>
T __shfl_xor_sync(unsigned mask, T x, int other) {
  uint64_t bits = 0;
  std::memcpy(&bits, &x, sizeof(x));
  const uint64_t* all = emulation::meet(mask, other, bits);
  T result;
  std::memcpy(&result, &all[emulation::warp->lane ^ other], sizeof(result));
  return result;
}

template <class T>
void atomicAdd(T* to, T x) {
  *to += x;
}

template <class T>
void atomicMax(T* to, T x) {
  *to = max(*to, x);
}

// act, act_mul and their gradients on a GPU.
//
// Predicted on an H200 (copies reach 4.3 TB/s) at 8192 x 8192 in bfloat16: act moves 2 x 134 MB,
// 62 us; act_backward, and act_mul to 8192 x 8192, 3 x 134 MB, 94 us; act_mul_backward from there
// 5 x 134 MB, 156 us. A thread has 2 x 16 bytes of
// each input in flight, so the 4 blocks of a multiprocessor keep 32 KiB an input, three times what
// its share of the reads times the latency of memory asks for. Arithmetic fits beneath: gelu takes
// about 17 instructions and 2 of the special function unit an element, of the 26 and 3 that a
// multiprocessor issues while memory moves one.
#include "kernels/activation/gpu/act_kernels.h"
#include "kernels/base/gpu/launch.h"
#include "kernels/base/gpu/math.h"
#include "kernels/base/gpu/pack.h"
#include "kernels/base/gpu/row_tiling.h"

namespace kpt::KPT_BACKEND {
namespace {

using namespace gpu;  // NOLINT: the vocabulary of kernels

constexpr int kThreads = 256;
constexpr int kBlocks = 4;  // on a multiprocessor
// Pieces of a row that a thread has in flight.
constexpr int kVectors = 2;
constexpr int kElements = 4;

struct ActParams {
  ActJob job;
  int threads_per_row;
  int64_t column_tiles;
  int64_t tiles;
};

template <ActivationKind kKind, ActOp kOp, class T>
KPT_DEVICE float Apply(float x, float other) {
  if constexpr (kOp == ActOp::kForward) {
    return Activate<kKind, T>(x);
  } else if constexpr (kOp == ActOp::kBackward) {
    return Backpropagate<kKind, T>(other, x);
  } else {
    return Activate<kKind, T>(x) * other;
  }
}

template <class T, int kWidth, int kCount, ActOp kOp>
KPT_KERNEL(kThreads, kOp == ActOp::kMulBackward ? kBlocks - 1 : kBlocks)
ActKernel(KPT_PARAMS(ActParams) p) {
  using P = Pack<T, kWidth>;
  constexpr bool kBinary = kOp != ActOp::kForward;
  constexpr bool kTwoOuts = kOp == ActOp::kMulBackward;
  const ActJob& job = p.job;
  const int row_in_block = ThreadIndex() / p.threads_per_row;
  const int lane = ThreadIndex() - row_in_block * p.threads_per_row;
  const int rows_per_block = BlockThreads() / p.threads_per_row;
  for (int64_t tile = BlockIndex(); tile < p.tiles; tile += GridBlocks()) {
    const int64_t row_tile = tile / p.column_tiles;
    const int64_t row = row_tile * rows_per_block + row_in_block;
    if (row >= job.plan.rows) continue;
    int64_t at[ActJob::kNumTensors];
    RowOffsets(job.plan, row, at);
    T* const out = static_cast<T*>(job.out) + at[ActJob::kOut];
    const T* const x = static_cast<const T*>(job.x) + at[ActJob::kX];
    const T* const other = static_cast<const T*>(job.other) + at[ActJob::kOther];
    const int64_t first = (tile - row_tile * p.column_tiles) * p.threads_per_row * kCount + lane;
    const auto col = [&](int v) { return (first + v * p.threads_per_row) * kWidth; };

    P a[kCount], b[kBinary ? kCount : 1], up[kTwoOuts ? kCount : 1];
#pragma unroll
    for (int v = 0; v < kCount; ++v) {
      if (col(v) >= job.cols) continue;
      a[v] = P::LoadOnce(x + col(v));
      if constexpr (kBinary) b[v] = P::LoadOnce(other + col(v));
      if constexpr (kTwoOuts) up[v] = P::LoadOnce(x + job.cols + col(v));
    }
    SwitchKind(job.kind, [&](auto kind) {
#pragma unroll
      for (int v = 0; v < kCount; ++v) {
        if (col(v) >= job.cols) continue;
        float f[kWidth], g[kWidth] = {};
        a[v].Widen(f);
        if constexpr (kBinary) b[v].Widen(g);
        if constexpr (kTwoOuts) {
          constexpr ActivationKind kKind = decltype(kind)::value;
          float u[kWidth];
          up[v].Widen(u);
#pragma unroll
          for (int i = 0; i < kWidth; ++i) {
            const float grad_up = Activate<kKind, T>(f[i]) * g[i];
            f[i] = Backpropagate<kKind, T>(g[i] * u[i], f[i]);
            u[i] = grad_up;
          }
          P::Of(u).Store(out + job.cols + col(v));
        } else {
#pragma unroll
          for (int i = 0; i < kWidth; ++i) f[i] = Apply<decltype(kind)::value, kOp, T>(f[i], g[i]);
        }
        P::Of(f).Store(out + col(v));
      }
    });
  }
}

template <class T, int kWidth, int kCount>
Status Start(const LaunchContext& ctx, ActOp op, const ActJob& job) {
  const TileGrid grid = TileElements(job.plan.rows, job.cols / kWidth, kCount, kThreads);
  const ActParams params = {job, grid.threads_per_row, grid.column_tiles, grid.tiles};
  switch (op) {
    case ActOp::kForward:
      return Launch("act", "act", ActKernel<T, kWidth, kCount, ActOp::kForward>, grid.blocks,
                    kThreads, ctx, params);
    case ActOp::kBackward:
      return Launch("act_backward", "act", ActKernel<T, kWidth, kCount, ActOp::kBackward>,
                    grid.blocks, kThreads, ctx, params);
    case ActOp::kMul:
      return Launch("act_mul", "act", ActKernel<T, kWidth, kCount, ActOp::kMul>, grid.blocks,
                    kThreads, ctx, params);
    default:
      return Launch("act_mul_backward", "act", ActKernel<T, kWidth, kCount, ActOp::kMulBackward>,
                    grid.blocks, kThreads, ctx, params);
  }
}

}  // namespace

Status ActVectors(const LaunchContext& ctx, ActOp op, const ActJob& job) {
  return ForFloatType(job.dtype, [&](auto t) {
    using T = decltype(t);
    return Start<T, kVectorWidth<T>, kVectors>(ctx, op, job);
  });
}

Status ActScalars(const LaunchContext& ctx, ActOp op, const ActJob& job) {
  return ForFloatType(job.dtype, [&](auto t) {
    using T = decltype(t);
    return Start<T, 1, kElements>(ctx, op, job);
  });
}

}  // namespace kpt::KPT_BACKEND

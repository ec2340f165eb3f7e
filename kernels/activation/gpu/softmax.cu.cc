// softmax on a GPU.
//
// Predicted on an H200 (copies reach 4.3 TB/s) at 8192 x 8192 in bfloat16: 2 x 134 MB, 62 us, with
// one exponential an element of the 3 that fit beneath. A row is 256 threads of 4 x 16 bytes; see
// kernels/norm/gpu/norm.cu.cc, whose rows are laid out alike.
#include "kernels/activation/gpu/softmax_kernels.h"
#include "kernels/base/gpu/launch.h"
#include "kernels/base/gpu/math.h"
#include "kernels/base/gpu/row_group.h"
#include "kernels/base/gpu/row_tiling.h"

namespace kpt::KPT_BACKEND {
namespace {

using namespace gpu;  // NOLINT: the vocabulary of kernels

struct SoftmaxParams {
  SoftmaxJob job;
  int threads_per_row;
};

KPT_DEVICE float MinusInfinity() { return BitsToFloat(0xff800000u); }

template <class T>
KPT_DEVICE float Share(float e, float sum, float inverse) {
  if constexpr (kExact<T>) return e / sum;
  return e * inverse;
}

template <class T>
KPT_KERNEL(kSoftmaxMaxThreads, 1)
SoftmaxHeldKernel(KPT_PARAMS(SoftmaxParams) p) {
  constexpr int kWidth = kVectorWidth<T>;
  constexpr int kCount = kSoftmaxHeldVectors;
  using P = Pack<T, kWidth>;
  const SoftmaxJob& job = p.job;
  KPT_SHARED(float, scratch, kReduceFloats<1>);
  RowGroup<1> group(p.threads_per_row, scratch);
  for (int64_t first = BlockIndex() * group.rows_per_block(); first < job.plan.rows;
       first += GridBlocks() * group.rows_per_block()) {
    // Threads past the last row reduce along, but load and store nothing.
    const bool active = first + group.row_in_block() < job.plan.rows;
    int64_t at[SoftmaxJob::kNumTensors];
    RowOffsets(job.plan, active ? first + group.row_in_block() : first, at);
    const T* const x = static_cast<const T*>(job.x) + at[SoftmaxJob::kX];
    T* const out = static_cast<T*>(job.out) + at[SoftmaxJob::kOut];
    const auto col = [&](int v) {
      return static_cast<int64_t>(v * group.threads() + group.lane()) * kWidth;
    };
    const auto inside = [&](int v) { return active && col(v) < job.cols; };

    P held[kCount];
#pragma unroll
    for (int v = 0; v < kCount; ++v) {
      held[v] = inside(v) ? P::LoadOnce(x + col(v)) : P::Zero();
    }
    float e[kCount][kWidth];
    float most = MinusInfinity();
#pragma unroll
    for (int v = 0; v < kCount; ++v) {
      held[v].Widen(e[v]);
#pragma unroll
      for (int i = 0; i < kWidth; ++i) {
        e[v][i] *= job.scale;
        if (inside(v)) most = MaxOf(most, e[v][i]);
      }
    }
    most = group.Max(most);
    float sum = 0.0f;
#pragma unroll
    for (int v = 0; v < kCount; ++v) {
#pragma unroll
      for (int i = 0; i < kWidth; ++i) {
        e[v][i] = ExpBelowMax<T>(e[v][i] - most);
        if (inside(v)) sum += e[v][i];
      }
    }
    sum = group.Sum(sum);
    const float inverse = 1.0f / sum;
#pragma unroll
    for (int v = 0; v < kCount; ++v) {
#pragma unroll
      for (int i = 0; i < kWidth; ++i) e[v][i] = Share<T>(e[v][i], sum, inverse);
      if (inside(v)) P::Of(e[v]).Store(out + col(v));
    }
  }
}

// The maximum and the sum in one pass: a thread's sum is scaled down whenever its maximum grows.
// Maxima of -infinity count as 0 in exponents, where elements of -infinity then give 0; a row of
// nothing else has the sum 0 and becomes NaN.
template <class T, int kWidth>
KPT_KERNEL(kSoftmaxMaxThreads, 1)
SoftmaxLoopKernel(KPT_PARAMS(SoftmaxParams) p) {
  using P = Pack<T, kWidth>;
  constexpr int kBatch = kWidth == 1 ? 8 : 2;  // loads in flight
  const SoftmaxJob& job = p.job;
  KPT_SHARED(float, scratch, kReduceFloats<1>);
  RowGroup<1> group(p.threads_per_row, scratch);
  const int64_t step = static_cast<int64_t>(group.threads()) * kWidth;
  for (int64_t first = BlockIndex() * group.rows_per_block(); first < job.plan.rows;
       first += GridBlocks() * group.rows_per_block()) {
    const bool active = first + group.row_in_block() < job.plan.rows;
    int64_t at[SoftmaxJob::kNumTensors];
    RowOffsets(job.plan, active ? first + group.row_in_block() : first, at);
    const T* const x = static_cast<const T*>(job.x) + at[SoftmaxJob::kX];
    T* const out = static_cast<T*>(job.out) + at[SoftmaxJob::kOut];
    const int64_t begin = static_cast<int64_t>(group.lane()) * kWidth;
    const int64_t end = active ? job.cols : 0;

    float mine = MinusInfinity(), sum = 0.0f;
    for (int64_t col = begin; col < end; col += kBatch * step) {
      P packs[kBatch] = {};
#pragma unroll
      for (int b = 0; b < kBatch; ++b) {
        if (col + b * step < end) packs[b] = P::Load(x + col + b * step);
      }
      float v[kBatch][kWidth];
      float most = mine;
#pragma unroll
      for (int b = 0; b < kBatch; ++b) {
        packs[b].Widen(v[b]);
#pragma unroll
        for (int i = 0; i < kWidth; ++i) {
          v[b][i] = col + b * step < end ? v[b][i] * job.scale : MinusInfinity();
          most = MaxOf(most, v[b][i]);
        }
      }
      if (most > mine) {
        if (mine > MinusInfinity()) sum *= ExpBelowMax<T>(mine - most);
        mine = most;
      }
      const float base = mine > MinusInfinity() ? mine : 0.0f;
#pragma unroll
      for (int b = 0; b < kBatch; ++b) {
#pragma unroll
        for (int i = 0; i < kWidth; ++i) sum += ExpBelowMax<T>(v[b][i] - base);
      }
    }
    const float most = group.Max(mine);
    if (mine > MinusInfinity()) sum *= ExpBelowMax<T>(mine - most);
    sum = group.Sum(sum);
    const float base = most > MinusInfinity() ? most : 0.0f;
    const float inverse = 1.0f / sum;
#pragma unroll 4
    for (int64_t col = begin; col < end; col += step) {
      float v[kWidth];
      P::Load(x + col).Widen(v);
#pragma unroll
      for (int i = 0; i < kWidth; ++i) {
        v[i] = Share<T>(ExpBelowMax<T>(v[i] * job.scale - base), sum, inverse);
      }
      P::Of(v).Store(out + col);
    }
  }
}

Status Start(const LaunchContext& ctx, const SoftmaxJob& job, int width, int units_per_thread,
             const char* name, void (*kernel)(SoftmaxParams)) {
  const RowTiling tiling =
      TileRows(job.plan.rows, job.cols / width, units_per_thread, ctx.device->warp_size,
               /*block_threads=*/256, kSoftmaxMaxThreads);
  return Launch("softmax", name, kernel, tiling.blocks, tiling.block_threads, ctx,
                SoftmaxParams{job, tiling.threads_per_row});
}

constexpr int kElements = 16;  // that a thread should take where they come one by one

}  // namespace

Status SoftmaxHeld(const LaunchContext& ctx, const SoftmaxJob& job) {
  const char* const name = "softmax_held";
  return ForFloatType(job.dtype, [&](auto t) {
    using T = decltype(t);
    return Start(ctx, job, kVectorWidth<T>, kSoftmaxHeldVectors, name, SoftmaxHeldKernel<T>);
  });
}

Status SoftmaxLong(const LaunchContext& ctx, const SoftmaxJob& job) {
  const char* const name = "softmax_long";
  return ForFloatType(job.dtype, [&](auto t) {
    using T = decltype(t);
    return Start(ctx, job, kVectorWidth<T>, kSoftmaxHeldVectors, name,
                 SoftmaxLoopKernel<T, kVectorWidth<T>>);
  });
}

Status SoftmaxScalar(const LaunchContext& ctx, const SoftmaxJob& job) {
  const char* const name = "softmax_scalar";
  return ForFloatType(job.dtype, [&](auto t) {
    using T = decltype(t);
    return Start(ctx, job, 1, kElements, name, SoftmaxLoopKernel<T, 1>);
  });
}

}  // namespace kpt::KPT_BACKEND

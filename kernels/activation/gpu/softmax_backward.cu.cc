// The gradient of softmax on a GPU.
//
// Predicted on an H200 (copies reach 4.3 TB/s) at 8192 x 8192 in bfloat16: 3 x 134 MB, 94 us. Rows
// are laid out as in softmax.cu.cc.
#include "kernels/activation/gpu/softmax_kernels.h"
#include "kernels/base/gpu/launch.h"
#include "kernels/base/gpu/pack.h"
#include "kernels/base/gpu/row_group.h"
#include "kernels/base/gpu/row_tiling.h"

namespace kpt::KPT_BACKEND {
namespace {

using namespace gpu;  // NOLINT: the vocabulary of kernels

struct SoftmaxBackwardParams {
  SoftmaxBackwardJob job;
  int threads_per_row;
};

template <class T>
struct SoftmaxBackwardRow {
  T* grad_x;
  const T* out;
  const T* grad;

  KPT_DEVICE_MEMBER SoftmaxBackwardRow(const SoftmaxBackwardJob& job, int64_t row) {
    int64_t at[SoftmaxBackwardJob::kNumTensors];
    RowOffsets(job.plan, row, at);
    grad_x = static_cast<T*>(job.grad_x) + at[SoftmaxBackwardJob::kGradX];
    out = static_cast<const T*>(job.out) + at[SoftmaxBackwardJob::kOut];
    grad = static_cast<const T*>(job.grad_out) + at[SoftmaxBackwardJob::kGradOut];
  }
};

template <class T, int kWidth>
KPT_DEVICE float Dot(const Pack<T, kWidth>& a, const Pack<T, kWidth>& b, float sum) {
  float x[kWidth], y[kWidth];
  a.Widen(x);
  b.Widen(y);
#pragma unroll
  for (int i = 0; i < kWidth; ++i) sum += x[i] * y[i];
  return sum;
}

template <class T, int kWidth>
KPT_DEVICE Pack<T, kWidth> GradX(const Pack<T, kWidth>& out, const Pack<T, kWidth>& grad, float dot,
                                 float scale) {
  float y[kWidth], g[kWidth];
  out.Widen(y);
  grad.Widen(g);
#pragma unroll
  for (int i = 0; i < kWidth; ++i) y[i] = scale * y[i] * (g[i] - dot);
  return Pack<T, kWidth>::Of(y);
}

template <class T>
KPT_KERNEL(kSoftmaxBackwardMaxThreads, 1)
SoftmaxBackwardHeldKernel(KPT_PARAMS(SoftmaxBackwardParams) p) {
  constexpr int kWidth = kVectorWidth<T>;
  constexpr int kCount = kSoftmaxHeldVectors;
  using P = Pack<T, kWidth>;
  const SoftmaxBackwardJob& job = p.job;
  KPT_SHARED(float, scratch, kReduceFloats<1>);
  RowGroup<1> group(p.threads_per_row, scratch);
  for (int64_t first = BlockIndex() * group.rows_per_block(); first < job.plan.rows;
       first += GridBlocks() * group.rows_per_block()) {
    // Threads past the last row reduce along, but load and store nothing.
    const bool active = first + group.row_in_block() < job.plan.rows;
    const SoftmaxBackwardRow<T> row(job, active ? first + group.row_in_block() : first);
    const auto col = [&](int v) {
      return static_cast<int64_t>(v * group.threads() + group.lane()) * kWidth;
    };
    const auto inside = [&](int v) { return active && col(v) < job.cols; };
    P out[kCount], grad[kCount];
#pragma unroll
    for (int v = 0; v < kCount; ++v) {
      out[v] = inside(v) ? P::LoadOnce(row.out + col(v)) : P::Zero();
      grad[v] = inside(v) ? P::LoadOnce(row.grad + col(v)) : P::Zero();
    }
    float dot = 0.0f;
#pragma unroll
    for (int v = 0; v < kCount; ++v) dot = Dot(out[v], grad[v], dot);
    dot = group.Sum(dot);
#pragma unroll
    for (int v = 0; v < kCount; ++v) {
      if (inside(v)) GradX(out[v], grad[v], dot, job.scale).Store(row.grad_x + col(v));
    }
  }
}

template <class T, int kWidth>
KPT_KERNEL(kSoftmaxBackwardMaxThreads, 1)
SoftmaxBackwardLoopKernel(KPT_PARAMS(SoftmaxBackwardParams) p) {
  using P = Pack<T, kWidth>;
  const SoftmaxBackwardJob& job = p.job;
  KPT_SHARED(float, scratch, kReduceFloats<1>);
  RowGroup<1> group(p.threads_per_row, scratch);
  const int64_t step = static_cast<int64_t>(group.threads()) * kWidth;
  for (int64_t first = BlockIndex() * group.rows_per_block(); first < job.plan.rows;
       first += GridBlocks() * group.rows_per_block()) {
    const bool active = first + group.row_in_block() < job.plan.rows;
    const SoftmaxBackwardRow<T> row(job, active ? first + group.row_in_block() : first);
    const int64_t begin = static_cast<int64_t>(group.lane()) * kWidth;
    const int64_t end = active ? job.cols : 0;
    float dot = 0.0f;
#pragma unroll 4
    for (int64_t col = begin; col < end; col += step) {
      dot = Dot(P::Load(row.out + col), P::Load(row.grad + col), dot);
    }
    dot = group.Sum(dot);
#pragma unroll 4
    for (int64_t col = begin; col < end; col += step) {
      GradX(P::Load(row.out + col), P::Load(row.grad + col), dot, job.scale)
          .Store(row.grad_x + col);
    }
  }
}

Status Start(const LaunchContext& ctx, const SoftmaxBackwardJob& job, int width,
             int units_per_thread, const char* name, void (*kernel)(SoftmaxBackwardParams)) {
  const RowTiling tiling =
      TileRows(job.plan.rows, job.cols / width, units_per_thread, ctx.device->warp_size,
               /*block_threads=*/256, kSoftmaxBackwardMaxThreads);
  return Launch("softmax_backward", name, kernel, tiling.blocks, tiling.block_threads, ctx,
                SoftmaxBackwardParams{job, tiling.threads_per_row});
}

constexpr int kElements = 16;  // that a thread should take where they come one by one

}  // namespace

Status SoftmaxBackwardHeld(const LaunchContext& ctx, const SoftmaxBackwardJob& job) {
  const char* const name = "softmax_backward_held";
  return ForFloatType(job.dtype, [&](auto t) {
    using T = decltype(t);
    return Start(ctx, job, kVectorWidth<T>, kSoftmaxHeldVectors, name,
                 SoftmaxBackwardHeldKernel<T>);
  });
}

Status SoftmaxBackwardLong(const LaunchContext& ctx, const SoftmaxBackwardJob& job) {
  const char* const name = "softmax_backward_long";
  return ForFloatType(job.dtype, [&](auto t) {
    using T = decltype(t);
    return Start(ctx, job, kVectorWidth<T>, kSoftmaxHeldVectors, name,
                 SoftmaxBackwardLoopKernel<T, kVectorWidth<T>>);
  });
}

Status SoftmaxBackwardScalar(const LaunchContext& ctx, const SoftmaxBackwardJob& job) {
  const char* const name = "softmax_backward_scalar";
  return ForFloatType(job.dtype, [&](auto t) {
    using T = decltype(t);
    return Start(ctx, job, 1, kElements, name, SoftmaxBackwardLoopKernel<T, 1>);
  });
}

}  // namespace kpt::KPT_BACKEND

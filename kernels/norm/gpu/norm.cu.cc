// The four norms on a GPU. Formulas: kernels/norm/layer_norm.h and its neighbours.
//
// Predicted on an H200, whose large copies reach about 4.3 TB/s, at 8192 x 8192 in bfloat16: a norm
// moves 2 x 134 MB, 62 us; with a residual 4 x 134 MB, 125 us. A row is 256 threads of 4 x 16 bytes
// and up to 64 registers, so the 4 blocks of a multiprocessor keep 64 KiB of loads in flight, twice
// what its share of the bandwidth times the latency of memory asks for; blocks that reduce or write
// hide behind those that read.
// The weight comes from the first-level cache: one row of it is read by every block.
#include "kernels/base/gpu/launch.h"
#include "kernels/base/gpu/norm_statistics.h"
#include "kernels/norm/gpu/norm_kernels.h"

namespace kpt::KPT_BACKEND {
namespace {

using namespace gpu;  // NOLINT: the vocabulary of kernels

struct NormParams {
  NormJob job;
  int threads_per_row;
};

// One row's pointers.
template <class T>
struct NormRow {
  T* y;
  const T* x;
  T* sum;
  const T* residual;

  KPT_DEVICE_MEMBER NormRow(const NormJob& job, int64_t row) {
    int64_t at[NormJob::kNumTensors];
    RowOffsets(job.plan, row, at);
    y = static_cast<T*>(job.y) + at[NormJob::kY];
    x = static_cast<const T*>(job.x) + at[NormJob::kX];
    sum = static_cast<T*>(job.sum) + at[NormJob::kSum];
    residual = static_cast<const T*>(job.residual) + at[NormJob::kResidual];
  }
};

// x + residual as it is stored, so rounded.
template <class T, int kWidth>
KPT_DEVICE Pack<T, kWidth> AddResidual(const Pack<T, kWidth>& x, const Pack<T, kWidth>& residual) {
  float a[kWidth], b[kWidth];
  x.Widen(a);
  residual.Widen(b);
#pragma unroll
  for (int i = 0; i < kWidth; ++i) a[i] += b[i];
  return Pack<T, kWidth>::Of(a);
}

template <class T, int kWidth>
KPT_DEVICE void Normalize(const NormJob& job, const NormStatistics& s, const Pack<T, kWidth>& h,
                          int64_t col, T* y) {
  float v[kWidth], param[kWidth];
  h.Widen(v);
#pragma unroll
  for (int i = 0; i < kWidth; ++i) v[i] = ((v[i] - s.shift) - s.rest) * s.rstd;
  if (job.weight != nullptr) {
    LoadParam<T, kWidth>(job.weight, job.weight_dtype == DType::kFloat32, col, param);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) v[i] *= param[i];
  }
  if (job.bias != nullptr) {
    LoadParam<T, kWidth>(job.bias, job.bias_dtype == DType::kFloat32, col, param);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) v[i] += param[i];
  }
  Pack<T, kWidth>::Of(v).Store(y + col);
}

template <class T, int kWidth>
KPT_DEVICE void AddMoments(const Pack<T, kWidth>& h, float shift, float (&sums)[2]) {
  float v[kWidth];
  h.Widen(v);
#pragma unroll
  for (int i = 0; i < kWidth; ++i) {
    const float distance = v[i] - shift;
    sums[0] += distance;
    sums[1] += distance * distance;
  }
}

template <class T>
KPT_KERNEL(kNormMaxThreads)
NormHeldKernel(KPT_PARAMS(NormParams) p) {
  constexpr int kWidth = kVectorWidth<T>;
  using P = Pack<T, kWidth>;
  const NormJob& job = p.job;
  KPT_SHARED(float, scratch, kReduceFloats<2>);
  RowGroup<2> group(p.threads_per_row, scratch);
  const int64_t rows_per_block = group.rows_per_block();
  for (int64_t first = BlockIndex() * rows_per_block; first < job.plan.rows;
       first += GridBlocks() * rows_per_block) {
    // Threads past the last row reduce along, but load and store nothing.
    const bool active = first + group.row_in_block() < job.plan.rows;
    const NormRow<T> row(job, active ? first + group.row_in_block() : first);
    const auto col = [&](int v) {
      return static_cast<int64_t>(v * group.threads() + group.lane()) * kWidth;
    };
    const auto inside = [&](int v) { return active && col(v) < job.cols; };

    P held[kNormHeldVectors];
#pragma unroll
    for (int v = 0; v < kNormHeldVectors; ++v) {
      held[v] = inside(v) ? P::LoadOnce(row.x + col(v)) : P::Zero();
    }
    if (job.residual != nullptr) {
      P residual[kNormHeldVectors];
#pragma unroll
      for (int v = 0; v < kNormHeldVectors; ++v) {
        residual[v] = inside(v) ? P::LoadOnce(row.residual + col(v)) : P::Zero();
      }
#pragma unroll
      for (int v = 0; v < kNormHeldVectors; ++v) {
        held[v] = AddResidual(held[v], residual[v]);
        if (inside(v)) held[v].Store(row.sum + col(v));
      }
    }

    float shift = 0.0f;
    if (job.subtract_mean) {
      float sum = 0.0f;
#pragma unroll
      for (int v = 0; v < kNormHeldVectors; ++v) sum += SumOf(held[v]);
      shift = group.Sum(sum) / static_cast<float>(job.cols);
    }
    float sums[2] = {0.0f, 0.0f};
#pragma unroll
    for (int v = 0; v < kNormHeldVectors; ++v) {
      if (inside(v)) AddMoments(held[v], shift, sums);
    }
    group.Sum(sums);
    const NormStatistics s = StatisticsOf(job.subtract_mean, shift, sums[0], sums[1],
                                          static_cast<float>(job.cols), job.eps);
#pragma unroll
    for (int v = 0; v < kNormHeldVectors; ++v) {
      if (inside(v)) Normalize(job, s, held[v], col(v), row.y);
    }
  }
}

// The squares are taken around the mean of the row's first part. That part is a sixteenth of the
// longest rows or more, so the mean of all lies within 4 standard deviations of it, and subtracting
// the square of the distance costs at most 4 bits; at rows of up to kUnits a thread nothing.
template <class T, int kWidth, int kUnits>
KPT_KERNEL(kNormMaxThreads)
NormLoopKernel(KPT_PARAMS(NormParams) p) {
  using P = Pack<T, kWidth>;
  const NormJob& job = p.job;
  KPT_SHARED(float, scratch, kReduceFloats<2>);
  RowGroup<2> group(p.threads_per_row, scratch);
  const int64_t rows_per_block = group.rows_per_block();
  const int64_t step = static_cast<int64_t>(group.threads()) * kWidth;
  for (int64_t first = BlockIndex() * rows_per_block; first < job.plan.rows;
       first += GridBlocks() * rows_per_block) {
    const bool active = first + group.row_in_block() < job.plan.rows;
    const NormRow<T> row(job, active ? first + group.row_in_block() : first);
    const int64_t begin = static_cast<int64_t>(group.lane()) * kWidth;
    const int64_t end = active ? job.cols : 0;
    const T* stored = row.x;

    if (job.residual != nullptr) {
      stored = row.sum;
#pragma unroll 4
      for (int64_t col = begin; col < end; col += step) {
        AddResidual(P::LoadOnce(row.x + col), P::LoadOnce(row.residual + col)).Store(row.sum + col);
      }
    }
    // A thread reads again what it has written itself: no barrier is needed.
    const int64_t part = kUnits * step < job.cols ? kUnits * step : job.cols;
    float shift = 0.0f;
    if (job.subtract_mean) {
      float sum = 0.0f;
#pragma unroll 4
      for (int64_t col = begin; col < part && col < end; col += step) {
        sum += SumOf(P::Load(stored + col));
      }
      shift = group.Sum(sum) / static_cast<float>(part);
    }
    float sums[2] = {0.0f, 0.0f};
#pragma unroll 4
    for (int64_t col = begin; col < end; col += step) {
      AddMoments(P::Load(stored + col), shift, sums);
    }
    group.Sum(sums);
    const NormStatistics s = StatisticsOf(job.subtract_mean, shift, sums[0], sums[1],
                                          static_cast<float>(job.cols), job.eps);
#pragma unroll 4
    for (int64_t col = begin; col < end; col += step) {
      Normalize(job, s, P::Load(stored + col), col, row.y);
    }
  }
}

Status Start(const LaunchContext& ctx, const NormJob& job, const RowTiling& tiling,
             const char* name, void (*kernel)(NormParams)) {
  return Launch("norm", name, kernel, tiling.blocks, tiling.block_threads, ctx,
                NormParams{job, tiling.threads_per_row});
}

}  // namespace

Status NormHeld(const LaunchContext& ctx, const NormJob& job) {
  const int width = static_cast<int>(16 / ItemSize(job.dtype));
  const RowTiling tiling = TileNorm(ctx, job, width, kNormHeldVectors);
  return ForFloatType(job.dtype, [&](auto t) {
    using T = decltype(t);
    return Start(ctx, job, tiling, "norm_held", NormHeldKernel<T>);
  });
}

Status NormLong(const LaunchContext& ctx, const NormJob& job) {
  constexpr int kUnits = kNormLoopVectors;
  const int width = static_cast<int>(16 / ItemSize(job.dtype));
  const RowTiling tiling = TileNorm(ctx, job, width, kUnits);
  return ForFloatType(job.dtype, [&](auto t) {
    using T = decltype(t);
    return Start(ctx, job, tiling, "norm_long", NormLoopKernel<T, kVectorWidth<T>, kUnits>);
  });
}

Status NormScalar(const LaunchContext& ctx, const NormJob& job) {
  constexpr int kUnits = kNormLoopElements;
  const RowTiling tiling = TileNorm(ctx, job, 1, kUnits);
  return ForFloatType(job.dtype, [&](auto t) {
    using T = decltype(t);
    return Start(ctx, job, tiling, "norm_scalar", NormLoopKernel<T, 1, kUnits>);
  });
}

}  // namespace kpt::KPT_BACKEND

// The gradients of the norms on a GPU. Formulas: kernels/norm/layer_norm_backward.h.
//
// With d = x - shift, every sum that grad_x needs is taken in one reduction: the sums of d, d^2, g
// and g d give mean, rstd, mean(g) and mean(g n). Layer norm takes one more for its shift.
//
// Gradients of parameters are sums over all rows. Each block adds up its rows in registers and
// stores one row of sums; a second kernel adds those in a fixed order. The result depends on the
// shape and the device alone, never on what ran first.
//
// Predicted on an H200 (copies reach 4.3 TB/s) at 8192 x 8192 in bfloat16: 3 x 134 MB and, for 132
// blocks of 512 threads, 4.3 MB of sums a parameter written and read through the second-level
// cache: 96 us for RMS norm and 97 us for layer norm, 4.2 TB/s of what the operator must move, if
// loads never wait for arithmetic. A block of 512 threads holds one row in registers and has the
// next, 32 KiB, in flight while it reduces; that covers the latency of memory only just, so 85 to
// 90% of the prediction is expected.
#include "kernels/base/gpu/launch.h"
#include "kernels/base/gpu/norm_statistics.h"
#include "kernels/norm/gpu/norm_backward_kernels.h"

namespace kpt::KPT_BACKEND {
namespace {

using namespace gpu;  // NOLINT: the vocabulary of kernels

struct NormBackwardParams {
  NormBackwardJob job;
  int threads_per_row;
  float* sums;        // [2, parts, cols]; nullptr: not wanted
  float* statistics;  // [rows, 3]; of the kernels that do not hold rows
  int64_t parts;
};

// One row's pointers.
template <class T>
struct NormBackwardRow {
  T* grad_x;
  const T* grad_y;
  const T* x;
  const T* grad_sum;

  KPT_DEVICE_MEMBER NormBackwardRow(const NormBackwardJob& job, int64_t row) {
    int64_t at[NormBackwardJob::kNumTensors];
    RowOffsets(job.plan, row, at);
    grad_x = static_cast<T*>(job.grad_x) + at[NormBackwardJob::kGradX];
    grad_y = static_cast<const T*>(job.grad_y) + at[NormBackwardJob::kGradY];
    x = static_cast<const T*>(job.x) + at[NormBackwardJob::kX];
    grad_sum = static_cast<const T*>(job.grad_sum) + at[NormBackwardJob::kGradSum];
  }
};

// grad_y * weight.
template <class T, int kWidth>
KPT_DEVICE void Weighted(const NormBackwardJob& job, const Pack<T, kWidth>& grad_y, int64_t col,
                         float (&g)[kWidth]) {
  grad_y.Widen(g);
  if (job.weight == nullptr) return;
  float weight[kWidth];
  LoadParam<T, kWidth>(job.weight, job.weight_dtype == DType::kFloat32, col, weight);
#pragma unroll
  for (int i = 0; i < kWidth; ++i) g[i] *= weight[i];
}

// The sums of d, d^2, g and g d.
template <class T, int kWidth>
KPT_DEVICE void AddMoments(const NormBackwardJob& job, const Pack<T, kWidth>& x,
                           const Pack<T, kWidth>& grad_y, int64_t col, float shift,
                           float (&sums)[4]) {
  float d[kWidth], g[kWidth];
  x.Widen(d);
  Weighted(job, grad_y, col, g);
#pragma unroll
  for (int i = 0; i < kWidth; ++i) {
    d[i] -= shift;
    sums[0] += d[i];
    sums[1] += d[i] * d[i];
    sums[2] += g[i];
    sums[3] += g[i] * d[i];
  }
}

// What grad_x needs of a row: rstd (g - mean_g - n mean_gn).
struct RowGradient {
  NormStatistics s;
  float mean_g, mean_gn;
};

KPT_DEVICE RowGradient GradientOf(const NormBackwardJob& job, float shift, const float (&sums)[4]) {
  const float count = static_cast<float>(job.cols);
  RowGradient r;
  r.s = StatisticsOf(job.subtract_mean, shift, sums[0], sums[1], count, job.eps);
  r.mean_g = job.subtract_mean ? sums[2] / count : 0.0f;
  r.mean_gn = (sums[3] - r.s.rest * sums[2]) / count * r.s.rstd;
  return r;
}

KPT_DEVICE float Normalized(const NormStatistics& s, float x) {
  return ((x - s.shift) - s.rest) * s.rstd;
}

template <class T, int kWidth>
KPT_DEVICE void StoreGradX(const NormBackwardJob& job, const RowGradient& r,
                           const Pack<T, kWidth>& x, const Pack<T, kWidth>& grad_y, int64_t col,
                           const NormBackwardRow<T>& row) {
  float v[kWidth], g[kWidth];
  x.Widen(v);
  Weighted(job, grad_y, col, g);
#pragma unroll
  for (int i = 0; i < kWidth; ++i) {
    v[i] = r.s.rstd * (g[i] - r.mean_g - Normalized(r.s, v[i]) * r.mean_gn);
  }
  if (job.grad_sum != nullptr) {
    Pack<T, kWidth>::LoadOnce(row.grad_sum + col).Widen(g);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) v[i] += g[i];
  }
  Pack<T, kWidth>::Of(v).Store(row.grad_x + col);
}

// The rows of a block, added up in order, go to the block's row of `sums`.
template <int kCount, int kWidth>
KPT_DEVICE void StoreSums(const NormBackwardParams& p, int lane, int row_in_block,
                          const float (&mine)[kCount][kWidth], float* sums,
                          SharedPtr<float> stage) {
  const int columns = p.threads_per_row * kWidth;
  const int rows = BlockThreads() / p.threads_per_row;
#pragma unroll
  for (int v = 0; v < kCount; ++v) {
    SyncBlock();
#pragma unroll
    for (int i = 0; i < kWidth; ++i) stage[row_in_block * columns + lane * kWidth + i] = mine[v][i];
    SyncBlock();
    for (int c = ThreadIndex(); c < columns; c += BlockThreads()) {
      const int64_t col = static_cast<int64_t>(v) * columns + c;
      if (col >= p.job.cols) continue;
      float sum = 0.0f;
      for (int r = 0; r < rows; ++r) sum += stage[r * columns + c];
      sums[BlockIndex() * p.job.cols + col] = sum;
    }
  }
}

template <class T, int kCount, bool kMean>
KPT_KERNEL(kNormBackwardMaxThreads)
NormBackwardHeldKernel(KPT_PARAMS(NormBackwardParams) p) {
  constexpr int kWidth = kVectorWidth<T>;
  constexpr bool kAhead = kCount == kNormBackwardFew;
  using P = Pack<T, kWidth>;
  const NormBackwardJob& job = p.job;
  KPT_SHARED(float, scratch, kReduceFloats<4>);
  KPT_SHARED(float, stage, kNormBackwardMaxThreads* kWidth);
  RowGroup<4> group(p.threads_per_row, scratch);
  const int64_t step = GridBlocks() * group.rows_per_block();

  const auto col = [&](int v) {
    return static_cast<int64_t>(v * group.threads() + group.lane()) * kWidth;
  };
  const auto load = [&](int64_t row, P(&x)[kCount], P(&grad_y)[kCount]) {
    const bool active = row < job.plan.rows;
    const NormBackwardRow<T> at(job, active ? row : 0);
#pragma unroll
    for (int v = 0; v < kCount; ++v) {
      const bool inside = active && col(v) < job.cols;
      x[v] = inside ? P::LoadOnce(at.x + col(v)) : P::Zero();
      grad_y[v] = inside ? P::LoadOnce(at.grad_y + col(v)) : P::Zero();
    }
  };

  float weight_sums[kCount][kWidth] = {};
  float bias_sums[kMean ? kCount : 1][kWidth] = {};
  P x[kCount], grad_y[kCount];
  int64_t first = BlockIndex() * group.rows_per_block();
  load(first + group.row_in_block(), x, grad_y);
  for (; first < job.plan.rows; first += step) {
    const int64_t row = first + group.row_in_block();
    const bool active = row < job.plan.rows;
    P next_x[kCount], next_grad_y[kCount];
    if constexpr (kAhead) load(row + step, next_x, next_grad_y);

    float shift = 0.0f;
    if constexpr (kMean) {
      float sum = 0.0f;
#pragma unroll
      for (int v = 0; v < kCount; ++v) sum += SumOf(x[v]);
      shift = group.Sum(sum) / static_cast<float>(job.cols);
    }
    float sums[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
    for (int v = 0; v < kCount; ++v) {
      if (col(v) < job.cols) AddMoments(job, x[v], grad_y[v], col(v), shift, sums);
    }
    group.Sum(sums);
    const RowGradient gradient = GradientOf(job, shift, sums);
    const NormBackwardRow<T> at(job, active ? row : 0);
#pragma unroll
    for (int v = 0; v < kCount; ++v) {
      if (!active || col(v) >= job.cols) continue;
      StoreGradX(job, gradient, x[v], grad_y[v], col(v), at);
      float n[kWidth], g[kWidth];
      x[v].Widen(n);
      grad_y[v].Widen(g);
#pragma unroll
      for (int i = 0; i < kWidth; ++i) {
        weight_sums[v][i] += g[i] * Normalized(gradient.s, n[i]);
        if constexpr (kMean) bias_sums[v][i] += g[i];
      }
    }
    if constexpr (kAhead) {
#pragma unroll
      for (int v = 0; v < kCount; ++v) {
        x[v] = next_x[v];
        grad_y[v] = next_grad_y[v];
      }
    } else {
      load(row + step, x, grad_y);
    }
  }
  if (p.sums == nullptr) return;
  StoreSums(p, group.lane(), group.row_in_block(), weight_sums, p.sums, stage);
  if constexpr (kMean) {
    StoreSums(p, group.lane(), group.row_in_block(), bias_sums, p.sums + p.parts * job.cols, stage);
  }
}

// Of any rows: their statistics alone, where p.statistics asks for them, else grad_x. As in
// norm.cu.cc, distances are taken from the mean of the first sixteenth of a row or more.
template <class T>
KPT_KERNEL(1024)
NormBackwardScalarKernel(KPT_PARAMS(NormBackwardParams) p) {
  using P = Pack<T, 1>;
  const NormBackwardJob& job = p.job;
  KPT_SHARED(float, scratch, kReduceFloats<4>);
  RowGroup<4> group(p.threads_per_row, scratch);
  for (int64_t first = BlockIndex() * group.rows_per_block(); first < job.plan.rows;
       first += GridBlocks() * group.rows_per_block()) {
    const int64_t index = first + group.row_in_block();
    const bool active = index < job.plan.rows;
    const NormBackwardRow<T> row(job, active ? index : first);
    const int64_t end = active ? job.cols : 0;
    const int64_t few = static_cast<int64_t>(group.threads()) * kNormBackwardLoopElements;
    const int64_t part = few < job.cols ? few : job.cols;
    float shift = 0.0f;
    if (job.subtract_mean) {
      float sum = 0.0f;
#pragma unroll 4
      for (int64_t c = group.lane(); c < part && c < end; c += group.threads()) {
        sum += FloatOf(row.x[c]);
      }
      shift = group.Sum(sum) / static_cast<float>(part);
    }
    float sums[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll 4
    for (int64_t c = group.lane(); c < end; c += group.threads()) {
      AddMoments(job, P::Load(row.x + c), P::Load(row.grad_y + c), c, shift, sums);
    }
    group.Sum(sums);
    const RowGradient gradient = GradientOf(job, shift, sums);
    if (p.statistics != nullptr) {
      if (active && group.lane() == 0) {
        p.statistics[3 * index] = gradient.s.shift;
        p.statistics[3 * index + 1] = gradient.s.rest;
        p.statistics[3 * index + 2] = gradient.s.rstd;
      }
      continue;
    }
#pragma unroll 4
    for (int64_t c = group.lane(); c < end; c += group.threads()) {
      StoreGradX(job, gradient, P::Load(row.x + c), P::Load(row.grad_y + c), c, row);
    }
  }
}

inline constexpr int kSumsThreads = kNormSumsColumns * kNormSumsSlices;

// The slices of a block's columns, added up in order. The first slice has the result.
KPT_DEVICE float SumOfSlices(float mine, SharedPtr<float> stage) {
  SyncBlock();
  stage[ThreadIndex()] = mine;
  SyncBlock();
  float sum = 0.0f;
  if (ThreadIndex() < kNormSumsColumns) {
#pragma unroll
    for (int s = 0; s < kNormSumsSlices; ++s) sum += stage[s * kNormSumsColumns + ThreadIndex()];
  }
  return sum;
}

// The sums of one chunk of rows and kNormSumsColumns columns.
template <class T>
KPT_KERNEL(kSumsThreads)
NormBackwardColumnsKernel(KPT_PARAMS(NormBackwardParams) p) {
  const NormBackwardJob& job = p.job;
  KPT_SHARED(float, stage, kSumsThreads);
  const int64_t column_blocks = (job.cols + kNormSumsColumns - 1) / kNormSumsColumns;
  const int64_t part = BlockIndex() / column_blocks;
  const int64_t col =
      (BlockIndex() - part * column_blocks) * kNormSumsColumns + ThreadIndex() % kNormSumsColumns;
  const int64_t chunk = (job.plan.rows + p.parts - 1) / p.parts;
  const int64_t end = (part + 1) * chunk < job.plan.rows ? (part + 1) * chunk : job.plan.rows;
  float weight_sum = 0.0f, bias_sum = 0.0f;
  if (col < job.cols) {
#pragma unroll 4
    for (int64_t r = part * chunk + ThreadIndex() / kNormSumsColumns; r < end;
         r += kNormSumsSlices) {
      const NormBackwardRow<T> row(job, r);
      const NormStatistics s = {p.statistics[3 * r], p.statistics[3 * r + 1],
                                p.statistics[3 * r + 2]};
      const float g = FloatOf(row.grad_y[col]);
      weight_sum += g * Normalized(s, FloatOf(row.x[col]));
      bias_sum += g;
    }
  }
  weight_sum = SumOfSlices(weight_sum, stage);
  bias_sum = SumOfSlices(bias_sum, stage);
  if (ThreadIndex() < kNormSumsColumns && col < job.cols) {
    p.sums[part * job.cols + col] = weight_sum;
    p.sums[(p.parts + part) * job.cols + col] = bias_sum;
  }
}

// The parts of the sums, added up; the second half of the blocks is the bias's.
KPT_KERNEL(kSumsThreads)
NormBackwardPartsKernel(KPT_PARAMS(NormBackwardParams) p) {
  const NormBackwardJob& job = p.job;
  KPT_SHARED(float, stage, kSumsThreads);
  const int64_t column_blocks = (job.cols + kNormSumsColumns - 1) / kNormSumsColumns;
  const bool bias = BlockIndex() >= column_blocks;
  const int64_t col = (BlockIndex() - (bias ? column_blocks : 0)) * kNormSumsColumns +
                      ThreadIndex() % kNormSumsColumns;
  const float* sums = p.sums + (bias ? p.parts * job.cols : 0);
  float sum = 0.0f;
  if (col < job.cols) {
#pragma unroll 4
    for (int64_t part = ThreadIndex() / kNormSumsColumns; part < p.parts; part += kNormSumsSlices) {
      sum += sums[part * job.cols + col];
    }
  }
  sum = SumOfSlices(sum, stage);
  void* const out = bias ? job.grad_bias : job.grad_weight;
  if (ThreadIndex() >= kNormSumsColumns || col >= job.cols || out == nullptr) return;
  switch (bias ? job.grad_bias_dtype : job.grad_weight_dtype) {
    case DType::kFloat32:
      static_cast<float*>(out)[col] = sum;
      return;
    case DType::kFloat16:
      static_cast<Float16*>(out)[col] = Rounded(sum, Float16());
      return;
    default:
      static_cast<BFloat16*>(out)[col] = Rounded(sum, BFloat16());
  }
}

constexpr const char* kOp = "norm backward";

Status AddUpParts(const LaunchContext& ctx, const NormBackwardParams& params) {
  const int64_t column_blocks = (params.job.cols + kNormSumsColumns - 1) / kNormSumsColumns;
  return Launch(kOp, "norm_backward_parts", NormBackwardPartsKernel,
                column_blocks * (params.job.subtract_mean ? 2 : 1), kSumsThreads, ctx, params);
}

template <class T>
Status Held(const LaunchContext& ctx, const NormBackwardJob& job) {
  const RowTiling tiling = TileNormBackwardHeld(ctx, job);
  const bool sums = job.has_sums();
  const NormBackwardParams params = {job, tiling.threads_per_row,
                                     sums ? static_cast<float*>(ctx.workspace) : nullptr, nullptr,
                                     tiling.blocks};
  void (*kernel)(NormBackwardParams);
  if (NormBackwardFits(job, kNormBackwardFew)) {
    kernel = job.subtract_mean ? NormBackwardHeldKernel<T, kNormBackwardFew, true>
                               : NormBackwardHeldKernel<T, kNormBackwardFew, false>;
  } else {
    kernel = job.subtract_mean ? NormBackwardHeldKernel<T, NormBackwardMany(true), true>
                               : NormBackwardHeldKernel<T, NormBackwardMany(false), false>;
  }
  KPT_RETURN_IF_ERROR(
      Launch(kOp, "norm_backward_held", kernel, tiling.blocks, tiling.block_threads, ctx, params));
  return sums ? AddUpParts(ctx, params) : Status();
}

template <class T>
Status Scalar(const LaunchContext& ctx, const NormBackwardJob& job) {
  const RowTiling tiling = TileNormBackwardScalar(ctx, job);
  NormBackwardParams params = {job, tiling.threads_per_row, nullptr, nullptr, 0};
  // In place, grad_x goes where the sums read from: they come first.
  if (job.has_sums()) {
    params.parts = NormSumsChunks(ctx, job);
    params.sums = static_cast<float*>(ctx.workspace);
    params.statistics = params.sums + 2 * params.parts * job.cols;
    const int64_t column_blocks = (job.cols + kNormSumsColumns - 1) / kNormSumsColumns;
    KPT_RETURN_IF_ERROR(Launch(kOp, "norm_backward_statistics", NormBackwardScalarKernel<T>,
                               tiling.blocks, tiling.block_threads, ctx, params));
    KPT_RETURN_IF_ERROR(Launch(kOp, "norm_backward_columns", NormBackwardColumnsKernel<T>,
                               column_blocks * params.parts, kSumsThreads, ctx, params));
    KPT_RETURN_IF_ERROR(AddUpParts(ctx, params));
    params.statistics = nullptr;
  }
  return Launch(kOp, "norm_backward_scalar", NormBackwardScalarKernel<T>, tiling.blocks,
                tiling.block_threads, ctx, params);
}

}  // namespace

Status NormBackwardHeld(const LaunchContext& ctx, const NormBackwardJob& job) {
  return ForFloatType(job.dtype, [&](auto t) {
    using T = decltype(t);
    return Held<T>(ctx, job);
  });
}

Status NormBackwardScalar(const LaunchContext& ctx, const NormBackwardJob& job) {
  return ForFloatType(job.dtype, [&](auto t) {
    using T = decltype(t);
    return Scalar<T>(ctx, job);
  });
}

Status NormBackwardNoRows(const LaunchContext& ctx, const NormBackwardJob& job) {
  NormBackwardParams params = {job, 1, nullptr, nullptr, 0};
  return AddUpParts(ctx, params);
}

}  // namespace kpt::KPT_BACKEND

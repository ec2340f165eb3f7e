#include "kernels/quant/gpu/quantize_launch.h"

#include <string>

#include "kernels/base/gpu_variant.h"

namespace kpt::KPT_BACKEND {
namespace {

bool IsAligned(const LaunchContext&, const GpuQuantizeJob& job) {
  using J = GpuQuantizeJob;
  const int64_t width = 16 / ItemSize(job.x_dtype);
  if (job.cols % kQuantUnit != 0 || !gpu::Aligned16(job.x)) return false;
  if (reinterpret_cast<uintptr_t>(job.codes) % kQuantUnit != 0) return false;
  if (job.rows_per_strip > 1 && (job.x_step % width != 0 || job.codes_step % kQuantUnit != 0)) {
    return false;
  }
  for (int d = 0; d < job.plan.rank; ++d) {
    if (job.plan.strides[J::kX][d] % width != 0) return false;
    if (job.plan.strides[J::kCodes][d] % kQuantUnit != 0) return false;
  }
  return true;
}

Status Vectors(const LaunchContext& ctx, const GpuQuantizeJob& job) {
  if (job.encoding.stochastic) return QuantizeFp8StochasticVectors(ctx, job);
  return IsFp8(job.encoding.format) ? QuantizeFp8Vectors(ctx, job) : QuantizeInt8Vectors(ctx, job);
}

Status Scalars(const LaunchContext& ctx, const GpuQuantizeJob& job) {
  if (job.encoding.stochastic) return QuantizeFp8StochasticScalars(ctx, job);
  return IsFp8(job.encoding.format) ? QuantizeFp8Scalars(ctx, job) : QuantizeInt8Scalars(ctx, job);
}

constexpr GpuVariant<GpuQuantizeJob> kVariants[] = {
    {"vectors", GpuTarget::kPortable, IsAligned, Vectors},
    {"scalars", GpuTarget::kPortable, nullptr, Scalars},
};

}  // namespace

Status MakeQuantizeJob(const char* op, const QuantizeTensors& t, Granularity granularity,
                       GpuQuantizeJob* job) {
  KPT_RETURN_IF_ERROR(CheckQuantize(op, t, granularity));
  const auto strip = [&](const TensorView& view, bool is_scale) {
    return StripView(view, t.x.rank, granularity, is_scale);
  };
  job->op = op;
  job->shared = granularity == Granularity::kTensor;
  job->x_dtype = t.x.dtype;
  job->x = t.x.data;
  job->codes = static_cast<uint8_t*>(const_cast<void*>(t.codes.data));
  job->scale_in = t.scale_in.present() ? t.scale_in.as<float>() : nullptr;
  job->scale_out = static_cast<float*>(const_cast<void*>(t.scale_out.data));
  job->zero_in = t.zero_in.present() ? t.zero_in.as<int32_t>() : nullptr;
  job->zero_out =
      t.zero_out.present() ? static_cast<int32_t*>(const_cast<void*>(t.zero_out.data)) : nullptr;
  const TensorView codes = strip(t.codes, false), x = strip(t.x, false);
  const TensorView scale_in = strip(t.scale_in, true), scale_out = strip(t.scale_out, true);
  const TensorView zero_in = strip(t.zero_in, true), zero_out = strip(t.zero_out, true);
  job->cols = t.x.dim(-1);
  job->plan = PlanRows<GpuQuantizeJob::kNumTensors>(
      {&codes, &x, &scale_in, &scale_out, &zero_in, &zero_out}, job->shared ? &job->cols : nullptr);
  job->group_cols = job->cols;
  job->groups = 1;
  const bool square = granularity == Granularity::kBlock128x128;
  if (square || granularity == Granularity::kBlock1x128) {
    if (job->cols > kScaleBlock) job->group_cols = kScaleBlock;
    job->groups = ScaleBlocks(job->cols);
  }
  if (square) {
    job->rows_per_strip = kScaleBlock;
    job->matrix_rows = t.x.dim(-2);
    job->strips_per_matrix = ScaleBlocks(job->matrix_rows);
    job->x_step = t.x.stride(-2);
    job->codes_step = t.codes.stride(-2);
  }
  return Status();
}

Status RunQuantize(const LaunchContext& ctx, const GpuQuantizeJob& job) {
  if (!job.shared && job.plan.rows * job.groups == 0) return Status();
  if (ctx.device != nullptr) {
    const int64_t bytes = QuantizeWorkspaceBytes(ctx, job);
    if (bytes > ctx.workspace_bytes || !gpu::Aligned16(ctx.workspace)) {
      return Status::InvalidArgument(std::string(job.op) + ": needs a workspace of " +
                                     std::to_string(bytes) + " bytes, 16-byte aligned, got " +
                                     std::to_string(ctx.workspace_bytes));
    }
  }
  return RunFirst(job.op, kVariants, ctx, job);
}

std::vector<VariantInfo> QuantizeVariants() { return ListVariants(kVariants); }

}  // namespace kpt::KPT_BACKEND

// quantize_fp8 on a GPU: checks, workspace and the choice of a kernel.
#include "kernels/quant/gpu/quantize_fp8.h"

#include <string>

#include "kernels/base/gpu_variant.h"
#include "kernels/quant/gpu/quantize_kernels.h"
#include "kernels/quant/quantize_checks.h"

namespace kpt::KPT_BACKEND {
namespace {

constexpr const char* kOp = "quantize_fp8";

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

constexpr GpuVariant<GpuQuantizeJob> kVariants[] = {
    {"vectors", GpuTarget::kPortable, IsAligned, QuantizeVectors},
    {"scalars", GpuTarget::kPortable, nullptr, QuantizeScalars},
};

Status MakeJob(const QuantizeFp8Args& args, GpuQuantizeJob* job) {
  if (args.x_q.dtype != DType::kFloat8E4M3FN && args.x_q.dtype != DType::kFloat8E5M2) {
    return Status::TypeError(Argument(kOp, "x_q") +
                             "must have dtype float8_e4m3fn or float8_e5m2, got " +
                             Name(args.x_q.dtype));
  }
  QuantizeTensors t;
  t.codes = args.x_q;
  t.scale_out = args.scale_out;
  t.x = args.x;
  t.scale_in = args.scale;
  KPT_RETURN_IF_ERROR(CheckQuantize(kOp, t, args.granularity));
  if (args.return_amax && !args.scale.present()) {
    return Status::InvalidArgument(Argument(kOp, "return_amax") + "needs a given scale");
  }
  const int rank = args.x.rank;
  const auto strip = [&](const TensorView& view, bool is_scale) {
    return StripView(view, rank, args.granularity, is_scale);
  };
  job->shared = args.granularity == Granularity::kTensor;
  job->return_amax = args.return_amax;
  job->x_dtype = args.x.dtype;
  job->format = args.x_q.dtype;
  job->x = args.x.data;
  job->codes = static_cast<uint8_t*>(args.x_q.mutable_data());
  job->scale_in = args.scale.present() ? args.scale.as<float>() : nullptr;
  job->scale_out = static_cast<float*>(args.scale_out.mutable_data());
  const TensorView codes = strip(args.x_q, false), x = strip(args.x, false);
  const TensorView scale_in = strip(args.scale, true), scale_out = strip(args.scale_out, true);
  job->cols = args.x.dim(-1);
  job->plan = PlanRows<GpuQuantizeJob::kNumTensors>({&codes, &x, &scale_in, &scale_out},
                                                    job->shared ? &job->cols : nullptr);
  job->group_cols = job->cols;
  job->groups = 1;
  const bool square = args.granularity == Granularity::kBlock128x128;
  if (square || args.granularity == Granularity::kBlock1x128) {
    if (job->cols > kScaleBlock) job->group_cols = kScaleBlock;
    job->groups = ScaleBlocks(job->cols);
  }
  if (square) {
    job->rows_per_strip = kScaleBlock;
    job->matrix_rows = args.x.dim(-2);
    job->strips_per_matrix = ScaleBlocks(job->matrix_rows);
    job->x_step = args.x.stride(-2);
    job->codes_step = args.x_q.stride(-2);
  }
  return Status();
}

}  // namespace

Status QuantizeFp8(const LaunchContext& ctx, const QuantizeFp8Args& args) {
  GpuQuantizeJob job;
  KPT_RETURN_IF_ERROR(MakeJob(args, &job));
  if (args.stochastic) {
    return Status::Unimplemented(std::string(kOp) + ": no native stochastic rounding on a GPU");
  }
  if (!job.shared && job.plan.rows * job.groups == 0) return Status();
  if (ctx.device != nullptr) {
    const int64_t bytes = QuantizeWorkspaceBytes(ctx, job);
    if (bytes > ctx.workspace_bytes || !gpu::Aligned16(ctx.workspace)) {
      return Status::InvalidArgument(std::string(kOp) + ": needs a workspace of " +
                                     std::to_string(bytes) + " bytes, 16-byte aligned, got " +
                                     std::to_string(ctx.workspace_bytes));
    }
  }
  return RunFirst(kOp, kVariants, ctx, job);
}

int64_t QuantizeFp8WorkspaceBytes(const LaunchContext& ctx, const QuantizeFp8Args& args) {
  GpuQuantizeJob job;
  if (ctx.device == nullptr || !MakeJob(args, &job).ok()) return 0;
  return QuantizeWorkspaceBytes(ctx, job);
}

std::vector<VariantInfo> QuantizeFp8Variants() { return ListVariants(kVariants); }

}  // namespace kpt::KPT_BACKEND

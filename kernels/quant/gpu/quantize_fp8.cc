// quantize_fp8 on a GPU: its arguments and its workspace.
#include "kernels/quant/gpu/quantize_launch.h"
#include "kernels/quant/gpu/quantize_workspace.h"

namespace kpt::KPT_BACKEND {
namespace {

constexpr const char* kOp = "quantize_fp8";

Status MakeJob(const QuantizeFp8Args& args, GpuQuantizeJob* job) {
  if (args.x_q.dtype != DType::kFloat8E4M3FN && args.x_q.dtype != DType::kFloat8E5M2) {
    return Status::TypeError(Argument(kOp, "x_q") +
                             "must have dtype float8_e4m3fn or float8_e5m2, got " +
                             Name(args.x_q.dtype));
  }
  if (args.return_amax && !args.scale.present()) {
    return Status::InvalidArgument(Argument(kOp, "return_amax") + "needs a given scale");
  }
  QuantizeTensors t;
  t.codes = args.x_q;
  t.scale_out = args.scale_out;
  t.x = args.x;
  t.scale_in = args.scale;
  KPT_RETURN_IF_ERROR(MakeQuantizeJob(kOp, t, args.granularity, job));
  job->encoding.format =
      args.x_q.dtype == DType::kFloat8E4M3FN ? QuantFormat::kE4M3 : QuantFormat::kE5M2;
  job->encoding.stochastic = args.stochastic;
  job->encoding.seed = args.seed;
  job->return_amax = args.return_amax;
  return Status();
}

}  // namespace

Status QuantizeFp8(const LaunchContext& ctx, const QuantizeFp8Args& args) {
  GpuQuantizeJob job;
  KPT_RETURN_IF_ERROR(MakeJob(args, &job));
  return RunQuantize(ctx, job);
}

int64_t QuantizeFp8WorkspaceBytes(const LaunchContext& ctx, const QuantizeFp8Args& args) {
  GpuQuantizeJob job;
  if (ctx.device == nullptr || !MakeJob(args, &job).ok()) return 0;
  return QuantizeWorkspaceBytes(ctx, job);
}

std::vector<VariantInfo> QuantizeFp8Variants() { return QuantizeVariants(); }

}  // namespace kpt::KPT_BACKEND

// quantize_int8 on a GPU: its arguments and its workspace.
#include "kernels/quant/gpu/quantize_launch.h"
#include "kernels/quant/gpu/quantize_workspace.h"
#include "kernels/quant/int8_checks.h"

namespace kpt::KPT_BACKEND {
namespace {

constexpr const char* kOp = "quantize_int8";

Status MakeJob(const QuantizeInt8Args& args, GpuQuantizeJob* job) {
  QuantizeTensors t;
  KPT_RETURN_IF_ERROR(CheckInt8Options(kOp, args, &t));
  KPT_RETURN_IF_ERROR(MakeQuantizeJob(kOp, t, args.granularity, job));
  job->encoding.format = args.symmetric ? QuantFormat::kInt8 : QuantFormat::kInt8Asymmetric;
  return Status();
}

}  // namespace

Status QuantizeInt8(const LaunchContext& ctx, const QuantizeInt8Args& args) {
  GpuQuantizeJob job;
  KPT_RETURN_IF_ERROR(MakeJob(args, &job));
  return RunQuantize(ctx, job);
}

int64_t QuantizeInt8WorkspaceBytes(const LaunchContext& ctx, const QuantizeInt8Args& args) {
  GpuQuantizeJob job;
  if (ctx.device == nullptr || !MakeJob(args, &job).ok()) return 0;
  return QuantizeWorkspaceBytes(ctx, job);
}

std::vector<VariantInfo> QuantizeInt8Variants() { return QuantizeVariants(); }

}  // namespace kpt::KPT_BACKEND

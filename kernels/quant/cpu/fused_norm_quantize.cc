#include "kernels/quant/fused_norm_quantize.h"

#include <string>

#include "kernels/quant/cpu/fused_launch.h"

namespace kpt::cpu {
namespace {

constexpr const char* kOp = "fused_norm_quantize";

constexpr Variant<FusedJob> kVariants[] = {
#if defined(KPT_HAVE_X86_VARIANTS)
    {"rows_avx512", Isa::kAvx512, nullptr, RunFusedRows<avx512::NormQuantizeRows>},
    {"rows_avx2", Isa::kAvx2, nullptr, RunFusedRows<avx2::NormQuantizeRows>},
#endif
    {"rows_baseline", Isa::kBaseline, nullptr, RunFusedRows<baseline::NormQuantizeRows>},
};

Status CheckParam(const char* arg, const TensorView& param, const TensorView& x) {
  if (!param.present()) return Status();
  if (param.rank != 1 || param.shape[0] != x.dim(-1)) {
    return Status::InvalidArgument(Argument(kOp, arg) + "must have shape [" +
                                   std::to_string(x.dim(-1)) + "], got " + ShapeText(param));
  }
  if (param.dtype != x.dtype && param.dtype != DType::kFloat32) {
    return Status::TypeError(Argument(kOp, arg) + "must have dtype " + Name(x.dtype) +
                             " or float32, got " + Name(param.dtype));
  }
  return CheckRows(kOp, arg, param, 1);
}

}  // namespace

Status FusedNormQuantize(const LaunchContext& ctx, const FusedNormQuantizeArgs& args) {
  FusedJob job;
  KPT_RETURN_IF_ERROR(CheckRows(kOp, "x", args.x, 1));
  KPT_RETURN_IF_ERROR(
      SetQuantization(kOp, args.x, args.y_q, args.scale_out, args.scale, args.granularity, &job));
  KPT_RETURN_IF_ERROR(CheckParam("weight", args.weight, args.x));
  KPT_RETURN_IF_ERROR(CheckParam("bias", args.bias, args.x));
  if (args.bias.present() && !args.subtract_mean) {
    return Status::InvalidArgument(Argument(kOp, "bias") + "is for layer norms only");
  }
  TensorView sum;
  if (args.residual.present()) {
    sum = args.new_residual;
    KPT_RETURN_IF_ERROR(CheckLike(kOp, "residual", args.residual, "x", args.x));
    KPT_RETURN_IF_ERROR(CheckLike(kOp, "new_residual", sum, "x", args.x));
  }
  KPT_RETURN_IF_ERROR(CheckApart(kOp, {&args.y_q, &args.scale_out, &sum},
                                 {"y_q", "scale_out", "new_residual"},
                                 {&args.x, &args.weight, &args.bias, &args.residual, &args.scale},
                                 {"x", "weight", "bias", "residual", "scale"}));
  const auto strip = [&](const TensorView& view, bool is_scale) {
    return StripView(view, args.x.rank, args.granularity, is_scale);
  };
  const TensorView scale_in = strip(args.scale, true), scale_out = strip(args.scale_out, true);
  job.plan = PlanRows<FusedJob::kNumTensors>(
      {&args.y_q, &args.x, &args.residual, &sum, &scale_in, &scale_out});
  job.shared = args.granularity == Granularity::kTensor;
  job.x = args.x.data;
  job.residual = args.residual.present() ? args.residual.data : nullptr;
  job.sum = const_cast<void*>(sum.data);
  job.weight = args.weight.data;
  job.weight_dtype = args.weight.dtype;
  job.bias = args.bias.data;
  job.bias_dtype = args.bias.dtype;
  job.subtract_mean = args.subtract_mean;
  job.eps = args.eps;
  return RunFirst(kOp, kVariants, ctx, job);
}

std::vector<VariantInfo> FusedNormQuantizeVariants() { return ListVariants(kVariants); }

}  // namespace kpt::cpu

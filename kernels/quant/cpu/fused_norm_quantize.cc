#include "kernels/quant/fused_norm_quantize.h"

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

}  // namespace

Status FusedNormQuantize(const LaunchContext& ctx, const FusedNormQuantizeArgs& args) {
  FusedJob job;
  KPT_RETURN_IF_ERROR(CheckFusedNorm(kOp, args, &job.spec.format));
  SetQuantization(args.x, args.y_q, args.scale_out, args.scale, args.granularity, &job);
  TensorView sum;
  if (args.residual.present()) sum = args.new_residual;
  const auto strip = [&](const TensorView& view, bool is_scale) {
    return StripView(view, args.x.rank, args.granularity, is_scale);
  };
  const TensorView scale_in = strip(args.scale, true), scale_out = strip(args.scale_out, true);
  job.plan = PlanRows<FusedJob::kNumTensors>(
      {&args.y_q, &args.x, &args.residual, &sum, &scale_in, &scale_out});
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

#include "kernels/quant/fused_act_quantize.h"

#include "kernels/quant/cpu/fused_launch.h"

namespace kpt::cpu {
namespace {

constexpr const char* kOp = "fused_act_quantize";

constexpr Variant<FusedJob> kVariants[] = {
#if defined(KPT_HAVE_X86_VARIANTS)
    {"rows_avx512", Isa::kAvx512, nullptr, RunFusedRows<avx512::ActQuantizeRows>},
    {"rows_avx2", Isa::kAvx2, nullptr, RunFusedRows<avx2::ActQuantizeRows>},
#endif
    {"rows_baseline", Isa::kBaseline, nullptr, RunFusedRows<baseline::ActQuantizeRows>},
};

}  // namespace

Status FusedActQuantize(const LaunchContext& ctx, const FusedActQuantizeArgs& args) {
  FusedJob job;
  KPT_RETURN_IF_ERROR(CheckRows(kOp, "x", args.x, 1));
  if (args.kind == ActivationKind::kNone || IsGated(args.kind)) {
    return Status::InvalidArgument(Argument(kOp, "kind") + "must be an elementwise activation");
  }
  TensorView y = args.x;  // what is quantized has this shape
  if (args.gated) {
    if (y.dim(-1) % 2 != 0) {
      return Status::InvalidArgument(Argument(kOp, "x") +
                                     "must have an even last dimension [..., 2 K], got " +
                                     ShapeText(args.x));
    }
    y.shape[y.rank - 1] /= 2;
  }
  KPT_RETURN_IF_ERROR(
      SetQuantization(kOp, y, args.y_q, args.scale_out, args.scale, args.granularity, &job));
  KPT_RETURN_IF_ERROR(CheckApart(kOp, {&args.y_q, &args.scale_out}, {"y_q", "scale_out"},
                                 {&args.x, &args.scale}, {"x", "scale"}));
  const TensorView none;
  const TensorView scale_in = StripView(args.scale, y.rank, args.granularity, true);
  const TensorView scale_out = StripView(args.scale_out, y.rank, args.granularity, true);
  job.plan = PlanRows<FusedJob::kNumTensors>({&args.y_q, &y, &none, &none, &scale_in, &scale_out});
  job.shared = args.granularity == Granularity::kTensor;
  job.x = args.x.data;
  job.kind = args.kind;
  job.gated = args.gated;
  return RunFirst(kOp, kVariants, ctx, job);
}

std::vector<VariantInfo> FusedActQuantizeVariants() { return ListVariants(kVariants); }

}  // namespace kpt::cpu

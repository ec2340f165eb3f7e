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
  TensorView y;  // what is quantized has this shape
  KPT_RETURN_IF_ERROR(CheckFusedAct(kOp, args, &y, &job.spec.format));
  SetQuantization(y, args.y_q, args.scale_out, args.scale, args.granularity, &job);
  const TensorView none;
  const TensorView scale_in = StripView(args.scale, y.rank, args.granularity, true);
  const TensorView scale_out = StripView(args.scale_out, y.rank, args.granularity, true);
  job.plan = PlanRows<FusedJob::kNumTensors>({&args.y_q, &y, &none, &none, &scale_in, &scale_out});
  job.x = args.x.data;
  job.kind = args.kind;
  job.gated = args.gated;
  return RunFirst(kOp, kVariants, ctx, job);
}

std::vector<VariantInfo> FusedActQuantizeVariants() { return ListVariants(kVariants); }

}  // namespace kpt::cpu

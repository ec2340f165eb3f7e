#include "kernels/activation/act.h"

#include "kernels/activation/cpu/act_launch.h"

namespace kpt::cpu {
namespace {

constexpr const char* kOp = "act";
constexpr Variant<ActJob> kVariants[] = KPT_ACT_VARIANTS(ActRows);

}  // namespace

Status Act(const LaunchContext& ctx, const ActArgs& args) {
  using K = ActivationKind;
  KPT_RETURN_IF_ERROR(CheckRows(kOp, "x", args.x, 0));
  KPT_RETURN_IF_ERROR(CheckLike(kOp, "out", args.out, "x", args.x));
  KPT_RETURN_IF_ERROR(CheckKind(
      kOp, args.kind,
      {K::kRelu, K::kGelu, K::kGeluTanh, K::kSilu, K::kSigmoid, K::kTanh, K::kQuickGelu}));
  if (args.x.size() == 0) return Status();
  KPT_RETURN_IF_ERROR(CheckWritesOnce(kOp, "out", args.out));
  KPT_RETURN_IF_ERROR(CheckOverlap(kOp, "out", args.out, "x", args.x, true));
  ActJob job;
  job.cols = args.x.rank > 0 ? args.x.dim(-1) : 1;
  job.plan = PlanRows<ActJob::kNumTensors>({&args.out, &args.x, nullptr}, &job.cols);
  job.dtype = args.x.dtype;
  job.kind = args.kind;
  job.out = args.out.mutable_data();
  job.x = args.x.data;
  CutRows(&job);
  return RunFirst(kOp, kVariants, ctx, job);
}

std::vector<VariantInfo> ActVariants() { return ListVariants(kVariants); }

}  // namespace kpt::cpu

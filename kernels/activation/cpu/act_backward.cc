#include "kernels/activation/act_backward.h"

#include "kernels/activation/cpu/act_launch.h"

namespace kpt::cpu {
namespace {

constexpr const char* kOp = "act_backward";
constexpr Variant<ActJob> kVariants[] = KPT_ACT_VARIANTS(ActBackwardRows);

}  // namespace

Status ActBackward(const LaunchContext& ctx, const ActBackwardArgs& args) {
  using K = ActivationKind;
  KPT_RETURN_IF_ERROR(CheckRows(kOp, "x", args.x, 0));
  KPT_RETURN_IF_ERROR(CheckLike(kOp, "grad_out", args.grad_out, "x", args.x));
  KPT_RETURN_IF_ERROR(CheckLike(kOp, "grad_x", args.grad_x, "x", args.x));
  KPT_RETURN_IF_ERROR(CheckKind(
      kOp, args.kind,
      {K::kRelu, K::kGelu, K::kGeluTanh, K::kSilu, K::kSigmoid, K::kTanh, K::kQuickGelu}));
  if (args.x.size() == 0) return Status();
  KPT_RETURN_IF_ERROR(CheckWritesOnce(kOp, "grad_x", args.grad_x));
  KPT_RETURN_IF_ERROR(CheckOverlap(kOp, "grad_x", args.grad_x, "x", args.x, true));
  KPT_RETURN_IF_ERROR(CheckOverlap(kOp, "grad_x", args.grad_x, "grad_out", args.grad_out, true));
  ActJob job;
  job.cols = args.x.rank > 0 ? args.x.dim(-1) : 1;
  job.plan = PlanRows<ActJob::kNumTensors>({&args.grad_x, &args.x, &args.grad_out}, &job.cols);
  job.dtype = args.x.dtype;
  job.kind = args.kind;
  job.out = args.grad_x.mutable_data();
  job.x = args.x.data;
  job.other = args.grad_out.data;
  CutRows(&job);
  return RunFirst(kOp, kVariants, ctx, job);
}

std::vector<VariantInfo> ActBackwardVariants() { return ListVariants(kVariants); }

}  // namespace kpt::cpu

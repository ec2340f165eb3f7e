#include "kernels/activation/act_mul.h"

#include <string>

#include "kernels/activation/cpu/act_launch.h"

namespace kpt::cpu {
namespace {

constexpr const char* kOp = "act_mul";
constexpr Variant<ActJob> kVariants[] = KPT_ACT_VARIANTS(ActMulRows);

}  // namespace

Status ActMul(const LaunchContext& ctx, const ActMulArgs& args) {
  using K = ActivationKind;
  KPT_RETURN_IF_ERROR(CheckRows(kOp, "gate_up", args.gate_up, 1));
  const int64_t width = args.gate_up.dim(-1);
  if (width % 2 != 0) {
    return Status::InvalidArgument(Argument(kOp, "gate_up") +
                                   "must have an even last dimension [..., 2 N], got " +
                                   ShapeText(args.gate_up));
  }
  TensorView gate = args.gate_up;
  gate.shape[gate.rank - 1] = width / 2;
  KPT_RETURN_IF_ERROR(CheckLike(kOp, "out", args.out, "gate_up[..., :N]", gate));
  KPT_RETURN_IF_ERROR(
      CheckKind(kOp, args.kind, {K::kSilu, K::kGelu, K::kGeluTanh, K::kRelu, K::kSigmoid}));
  if (gate.size() == 0) return Status();
  KPT_RETURN_IF_ERROR(CheckWritesOnce(kOp, "out", args.out));
  KPT_RETURN_IF_ERROR(CheckOverlap(kOp, "out", args.out, "gate_up", args.gate_up, false));
  ActJob job;
  job.cols = width / 2;
  job.plan = PlanRows<ActJob::kNumTensors>({&args.out, &gate, &gate});
  job.dtype = gate.dtype;
  job.kind = args.kind;
  job.out = args.out.mutable_data();
  job.x = gate.data;
  job.other = static_cast<const char*>(gate.data) + job.cols * ItemSize(gate.dtype);
  CutRows(&job);
  return RunFirst(kOp, kVariants, ctx, job);
}

std::vector<VariantInfo> ActMulVariants() { return ListVariants(kVariants); }

}  // namespace kpt::cpu

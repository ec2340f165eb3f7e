#include "kernels/activation/act_mul_backward.h"

#include <string>

#include "kernels/activation/cpu/act_launch.h"

namespace kpt::cpu {
namespace {

constexpr const char* kOp = "act_mul_backward";
constexpr Variant<ActPieces> kVariants[] = KPT_ACT_VARIANTS(ActMulBackwardRows);

}  // namespace

Status ActMulBackward(const LaunchContext& ctx, const ActMulBackwardArgs& args) {
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
  KPT_RETURN_IF_ERROR(CheckLike(kOp, "grad_out", args.grad_out, "gate_up[..., :N]", gate));
  KPT_RETURN_IF_ERROR(CheckLike(kOp, "grad_gate_up", args.grad_gate_up, "gate_up", args.gate_up));
  KPT_RETURN_IF_ERROR(
      CheckKind(kOp, args.kind, {K::kSilu, K::kGelu, K::kGeluTanh, K::kRelu, K::kSigmoid}));
  if (gate.size() == 0) return Status();
  KPT_RETURN_IF_ERROR(CheckWritesOnce(kOp, "grad_gate_up", args.grad_gate_up));
  KPT_RETURN_IF_ERROR(
      CheckOverlap(kOp, "grad_gate_up", args.grad_gate_up, "gate_up", args.gate_up, true));
  KPT_RETURN_IF_ERROR(
      CheckOverlap(kOp, "grad_gate_up", args.grad_gate_up, "grad_out", args.grad_out, false));
  TensorView grad_gate = args.grad_gate_up;
  grad_gate.shape[grad_gate.rank - 1] = width / 2;
  ActJob job;
  job.cols = width / 2;
  job.plan = PlanRows<ActJob::kNumTensors>({&grad_gate, &gate, &args.grad_out});
  job.dtype = gate.dtype;
  job.kind = args.kind;
  job.out = args.grad_gate_up.mutable_data();
  job.x = gate.data;
  job.other = args.grad_out.data;
  return RunFirst(kOp, kVariants, ctx, CutRows(job));
}

std::vector<VariantInfo> ActMulBackwardVariants() { return ListVariants(kVariants); }

}  // namespace kpt::cpu

// What act, act_mul and their gradients check, on any backend. An empty problem leaves the job as
// it was, with 0 cols.
#ifndef KPT_KERNELS_ACTIVATION_ACT_CHECKS_H_
#define KPT_KERNELS_ACTIVATION_ACT_CHECKS_H_

#include <initializer_list>
#include <string>

#include "kernels/activation/act.h"
#include "kernels/activation/act_backward.h"
#include "kernels/activation/act_job.h"
#include "kernels/activation/act_mul.h"
#include "kernels/activation/act_mul_backward.h"
#include "kernels/base/row_checks.h"

namespace kpt {

inline Status CheckKind(const char* op, ActivationKind kind,
                        std::initializer_list<ActivationKind> allowed) {
  for (ActivationKind k : allowed) {
    if (k == kind) return Status();
  }
  return Status::InvalidArgument(Argument(op, "kind") +
                                 "is not an activation of this operator, got code " +
                                 std::to_string(static_cast<int>(kind)));
}

inline Status CheckElementwiseKind(const char* op, ActivationKind kind) {
  using K = ActivationKind;
  return CheckKind(
      op, kind, {K::kRelu, K::kGelu, K::kGeluTanh, K::kSilu, K::kSigmoid, K::kTanh, K::kQuickGelu});
}

inline Status MakeActJob(const char* op, const backend::ActArgs& args, ActJob* job) {
  KPT_RETURN_IF_ERROR(CheckRows(op, "x", args.x, 0));
  KPT_RETURN_IF_ERROR(CheckLike(op, "out", args.out, "x", args.x));
  KPT_RETURN_IF_ERROR(CheckElementwiseKind(op, args.kind));
  if (args.x.size() == 0) return Status();
  KPT_RETURN_IF_ERROR(CheckWritesOnce(op, "out", args.out));
  KPT_RETURN_IF_ERROR(CheckOverlap(op, "out", args.out, "x", args.x, true));
  job->cols = args.x.rank > 0 ? args.x.dim(-1) : 1;
  job->plan = PlanRows<ActJob::kNumTensors>({&args.out, &args.x, nullptr}, &job->cols);
  job->dtype = args.x.dtype;
  job->kind = args.kind;
  job->out = args.out.mutable_data();
  job->x = args.x.data;
  return Status();
}

inline Status MakeActJob(const char* op, const backend::ActBackwardArgs& args, ActJob* job) {
  KPT_RETURN_IF_ERROR(CheckRows(op, "x", args.x, 0));
  KPT_RETURN_IF_ERROR(CheckLike(op, "grad_out", args.grad_out, "x", args.x));
  KPT_RETURN_IF_ERROR(CheckLike(op, "grad_x", args.grad_x, "x", args.x));
  KPT_RETURN_IF_ERROR(CheckElementwiseKind(op, args.kind));
  if (args.x.size() == 0) return Status();
  KPT_RETURN_IF_ERROR(CheckWritesOnce(op, "grad_x", args.grad_x));
  KPT_RETURN_IF_ERROR(CheckOverlap(op, "grad_x", args.grad_x, "x", args.x, true));
  KPT_RETURN_IF_ERROR(CheckOverlap(op, "grad_x", args.grad_x, "grad_out", args.grad_out, true));
  job->cols = args.x.rank > 0 ? args.x.dim(-1) : 1;
  job->plan = PlanRows<ActJob::kNumTensors>({&args.grad_x, &args.x, &args.grad_out}, &job->cols);
  job->dtype = args.x.dtype;
  job->kind = args.kind;
  job->out = args.grad_x.mutable_data();
  job->x = args.x.data;
  job->other = args.grad_out.data;
  return Status();
}

inline Status MakeActJob(const char* op, const backend::ActMulArgs& args, ActJob* job) {
  using K = ActivationKind;
  KPT_RETURN_IF_ERROR(CheckRows(op, "gate_up", args.gate_up, 1));
  const int64_t width = args.gate_up.dim(-1);
  if (width % 2 != 0) {
    return Status::InvalidArgument(Argument(op, "gate_up") +
                                   "must have an even last dimension [..., 2 N], got " +
                                   ShapeText(args.gate_up));
  }
  TensorView gate = args.gate_up;
  gate.shape[gate.rank - 1] = width / 2;
  KPT_RETURN_IF_ERROR(CheckLike(op, "out", args.out, "gate_up[..., :N]", gate));
  KPT_RETURN_IF_ERROR(
      CheckKind(op, args.kind, {K::kSilu, K::kGelu, K::kGeluTanh, K::kRelu, K::kSigmoid}));
  if (gate.size() == 0) return Status();
  KPT_RETURN_IF_ERROR(CheckWritesOnce(op, "out", args.out));
  KPT_RETURN_IF_ERROR(CheckOverlap(op, "out", args.out, "gate_up", args.gate_up, false));
  job->cols = width / 2;
  job->plan = PlanRows<ActJob::kNumTensors>({&args.out, &gate, &gate});
  job->dtype = gate.dtype;
  job->kind = args.kind;
  job->out = args.out.mutable_data();
  job->x = gate.data;
  job->other = static_cast<const char*>(gate.data) + job->cols * ItemSize(gate.dtype);
  return Status();
}

// grad_up and up lie cols behind grad_gate and gate.
inline Status MakeActJob(const char* op, const backend::ActMulBackwardArgs& args, ActJob* job) {
  using K = ActivationKind;
  KPT_RETURN_IF_ERROR(CheckRows(op, "gate_up", args.gate_up, 1));
  const int64_t width = args.gate_up.dim(-1);
  if (width % 2 != 0) {
    return Status::InvalidArgument(Argument(op, "gate_up") +
                                   "must have an even last dimension [..., 2 N], got " +
                                   ShapeText(args.gate_up));
  }
  TensorView gate = args.gate_up;
  gate.shape[gate.rank - 1] = width / 2;
  KPT_RETURN_IF_ERROR(CheckLike(op, "grad_out", args.grad_out, "gate_up[..., :N]", gate));
  KPT_RETURN_IF_ERROR(CheckLike(op, "grad_gate_up", args.grad_gate_up, "gate_up", args.gate_up));
  KPT_RETURN_IF_ERROR(
      CheckKind(op, args.kind, {K::kSilu, K::kGelu, K::kGeluTanh, K::kRelu, K::kSigmoid}));
  if (gate.size() == 0) return Status();
  KPT_RETURN_IF_ERROR(CheckWritesOnce(op, "grad_gate_up", args.grad_gate_up));
  KPT_RETURN_IF_ERROR(
      CheckOverlap(op, "grad_gate_up", args.grad_gate_up, "gate_up", args.gate_up, true));
  KPT_RETURN_IF_ERROR(
      CheckOverlap(op, "grad_gate_up", args.grad_gate_up, "grad_out", args.grad_out, false));
  TensorView grad_gate = args.grad_gate_up;
  grad_gate.shape[grad_gate.rank - 1] = width / 2;
  job->cols = width / 2;
  job->plan = PlanRows<ActJob::kNumTensors>({&grad_gate, &gate, &args.grad_out});
  job->dtype = gate.dtype;
  job->kind = args.kind;
  job->out = args.grad_gate_up.mutable_data();
  job->x = gate.data;
  job->other = args.grad_out.data;
  return Status();
}

}  // namespace kpt

#endif  // KPT_KERNELS_ACTIVATION_ACT_CHECKS_H_

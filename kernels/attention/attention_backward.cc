// attention_backward: argument checks.
#include "kernels/attention/attention_backward.h"

#include "kernels/attention/attention_checks.h"
#include "kernels/attention/flash_arguments.h"
#include "kernels/attention/flash_variants.h"
#include "kernels/base/row_checks.h"

namespace kpt::KPT_BACKEND {
namespace {

constexpr char kOp[] = "attention_backward";

Status CheckLse(const AttentionBackwardArgs& a, const char* name, const TensorView& lse) {
  if (lse.dtype != DType::kFloat32) return WrongType(kOp, name, "float32", lse.dtype);
  return CheckShape(kOp, name, lse, a.q.shape, 3);
}

Status CheckSaved(const AttentionBackwardArgs& a) {
  const int64_t shape[4] = {a.q.dim(0), a.q.dim(1), a.q.dim(2), a.v.dim(3)};
  const struct {
    const char* name;
    const TensorView& view;
  } outputs[] = {{"grad_out", a.grad_out}, {"out", a.out}};
  for (const auto& o : outputs) {
    if (o.view.dtype != a.q.dtype) return WrongType(kOp, o.name, Name(a.q.dtype), o.view.dtype);
    KPT_RETURN_IF_ERROR(CheckShape(kOp, o.name, o.view, shape, 4));
    KPT_RETURN_IF_ERROR(CheckDense(kOp, o.name, o.view));
  }
  KPT_RETURN_IF_ERROR(CheckLse(a, "lse", a.lse));
  return a.grad_lse.present() ? CheckLse(a, "grad_lse", a.grad_lse) : Status();
}

Status CheckGradient(const AttentionBackwardArgs& a, const char* name,
                     const MutableTensorView& grad, const char* of_name, const TensorView& of) {
  KPT_RETURN_IF_ERROR(CheckLike(kOp, name, grad, of_name, of));
  KPT_RETURN_IF_ERROR(CheckOverlap(kOp, name, grad, "grad_out", a.grad_out, false));
  KPT_RETURN_IF_ERROR(CheckOverlap(kOp, name, grad, "out", a.out, false));
  KPT_RETURN_IF_ERROR(CheckOverlap(kOp, name, grad, "lse", a.lse, false));
  KPT_RETURN_IF_ERROR(CheckOverlap(kOp, name, grad, "grad_lse", a.grad_lse, false));
  return CheckOutput(kOp, name, grad, a.q, a.k, a.v, a);
}

Status CheckGradients(const AttentionBackwardArgs& a) {
  KPT_RETURN_IF_ERROR(CheckGradient(a, "grad_q", a.grad_q, "q", a.q));
  KPT_RETURN_IF_ERROR(CheckGradient(a, "grad_k", a.grad_k, "k", a.k));
  KPT_RETURN_IF_ERROR(CheckGradient(a, "grad_v", a.grad_v, "v", a.v));
  KPT_RETURN_IF_ERROR(CheckOverlap(kOp, "grad_q", a.grad_q, "grad_k", a.grad_k, false));
  KPT_RETURN_IF_ERROR(CheckOverlap(kOp, "grad_q", a.grad_q, "grad_v", a.grad_v, false));
  return CheckOverlap(kOp, "grad_k", a.grad_k, "grad_v", a.grad_v, false);
}

FlashBackwardProblem Resolve(const AttentionBackwardArgs& a) {
  FlashBackwardProblem p{};
  static_cast<FlashProblem&>(p) = ResolveBatch(a.q, a.k, a.v, a);
  p.out = const_cast<void*>(a.out.data);
  p.out_stride = StridesOf(a.out);
  p.lse = const_cast<float*>(a.lse.as<float>());
  p.lse_stride = StridesOf(a.lse);
  p.grad_out = a.grad_out.data;
  p.grad_out_stride = StridesOf(a.grad_out);
  if (a.grad_lse.present()) {
    p.grad_lse = a.grad_lse.as<float>();
    p.grad_lse_stride = StridesOf(a.grad_lse);
  }
  p.grad_q = a.grad_q.mutable_data();
  p.grad_q_stride = StridesOf(a.grad_q);
  p.grad_k = a.grad_k.mutable_data();
  p.grad_k_stride = StridesOf(a.grad_k);
  p.grad_v = a.grad_v.mutable_data();
  p.grad_v_stride = StridesOf(a.grad_v);
  return p;
}

}  // namespace

Status AttentionBackward(const LaunchContext& ctx, const AttentionBackwardArgs& args) {
  KPT_RETURN_IF_ERROR(CheckBatch(kOp, args.q, args.k, args.v, args));
  KPT_RETURN_IF_ERROR(CheckSaved(args));
  KPT_RETURN_IF_ERROR(CheckGradients(args));
  return RunBackwardVariant(kOp, ctx, {Resolve(args)});
}

std::vector<VariantInfo> AttentionBackwardVariants() { return BackwardVariants(); }

}  // namespace kpt::KPT_BACKEND

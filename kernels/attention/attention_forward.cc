// attention_forward: argument checks.
#include "kernels/attention/attention_forward.h"

#include "kernels/attention/attention_checks.h"
#include "kernels/attention/flash_arguments.h"
#include "kernels/attention/flash_variants.h"
#include "kernels/base/row_checks.h"

namespace kpt::KPT_BACKEND {
namespace {

constexpr char kOp[] = "attention_forward";

Status CheckOutputs(const AttentionForwardArgs& a) {
  if (a.out.dtype != a.q.dtype) return WrongType(kOp, "out", Name(a.q.dtype), a.out.dtype);
  if (a.lse.dtype != DType::kFloat32) return WrongType(kOp, "lse", "float32", a.lse.dtype);
  const int64_t out_shape[4] = {a.q.dim(0), a.q.dim(1), a.q.dim(2), a.v.dim(3)};
  KPT_RETURN_IF_ERROR(CheckShape(kOp, "out", a.out, out_shape, 4));
  KPT_RETURN_IF_ERROR(CheckShape(kOp, "lse", a.lse, out_shape, 3));
  KPT_RETURN_IF_ERROR(CheckDense(kOp, "out", a.out));
  KPT_RETURN_IF_ERROR(CheckOutput(kOp, "out", a.out, a.q, a.k, a.v, a));
  KPT_RETURN_IF_ERROR(CheckOutput(kOp, "lse", a.lse, a.q, a.k, a.v, a));
  return CheckOverlap(kOp, "out", a.out, "lse", a.lse, false);
}

}  // namespace

Status AttentionForward(const LaunchContext& ctx, const AttentionForwardArgs& args) {
  KPT_RETURN_IF_ERROR(CheckBatch(kOp, args.q, args.k, args.v, args));
  KPT_RETURN_IF_ERROR(CheckOutputs(args));
  FlashProblem p = ResolveBatch(args.q, args.k, args.v, args);
  p.out = args.out.mutable_data();
  p.out_stride = StridesOf(args.out);
  p.lse = args.lse.as_mutable<float>();
  p.lse_stride = StridesOf(args.lse);
  return RunForwardVariant(kOp, ctx, {p});
}

std::vector<VariantInfo> AttentionForwardVariants() { return ForwardVariants(); }

}  // namespace kpt::KPT_BACKEND

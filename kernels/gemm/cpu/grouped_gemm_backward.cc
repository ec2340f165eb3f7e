#include "kernels/gemm/grouped_gemm_backward.h"

#include <string>
#include <vector>

#include "kernels/base/row_checks.h"
#include "kernels/gemm/cpu/gradient_products.h"
#include "kernels/gemm/cpu/linear_checks.h"
#include "kernels/gemm/cpu/row_groups.h"

namespace kpt::cpu {
namespace {

constexpr const char* kOp = "grouped_gemm_backward";

Status Check(const GroupedGemmBackwardArgs& a, std::vector<RowGroup>* groups) {
  KPT_RETURN_IF_ERROR(ReadGroups(kOp, a.x, a.weight, a.offsets, a.masked, groups));
  TensorView out = a.x;
  out.shape[1] = a.weight.dim(1);
  KPT_RETURN_IF_ERROR(CheckLike(kOp, "grad_out", a.grad_out, "x weight[0]^T", out));
  if (a.grad_x.present()) {
    KPT_RETURN_IF_ERROR(CheckLike(kOp, "grad_x", a.grad_x, "x", a.x));
  }
  if (a.grad_weight.present()) {
    KPT_RETURN_IF_ERROR(CheckLike(kOp, "grad_weight", a.grad_weight, "weight", a.weight));
  }
  return CheckGradients(
      kOp, {{"grad_x", &a.grad_x}, {"grad_weight", &a.grad_weight}},
      {{"grad_out", &a.grad_out}, {"x", &a.x}, {"weight", &a.weight}, {"offsets", &a.offsets}});
}

}  // namespace

Status GroupedGemmBackward(const LaunchContext& ctx, const GroupedGemmBackwardArgs& args) {
  std::vector<RowGroup> groups;
  KPT_RETURN_IF_ERROR(Check(args, &groups));
  const bool wants_x = args.grad_x.present() && args.grad_x.size() > 0;
  const bool wants_weight = args.grad_weight.present() && args.grad_weight.size() > 0;
  if (!wants_x && !wants_weight) return Status();
  GradientKernels kernels;
  KPT_RETURN_IF_ERROR(ChooseGradientKernels(kOp, ctx, args.x.dtype, &kernels));
  const RowMatrix grad = AsRowMatrix(args.grad_out);
  bool done = true;
  if (wants_x) {
    const RowMatrix out = AsRowMatrix(args.grad_x);
    done =
        GradientOfInput(ctx.num_threads, kernels, grad, AsGroupMatrices(args.weight), groups, out);
    ClearOthers(ctx.num_threads, out, groups);
  }
  if (wants_weight && done) {
    done = GradientOfWeight(ctx.num_threads, kernels, grad, AsRowMatrix(args.x), groups,
                            AsGroupMatrices(args.grad_weight));
  }
  if (done) return Status();
  return Status::ResourceExhausted(std::string(kOp) + ": no memory for temporary results");
}

std::vector<VariantInfo> GroupedGemmBackwardVariants() { return GradientVariants(); }

}  // namespace kpt::cpu

#include "kernels/loss/cross_entropy_backward.h"

#include <string>

#include "kernels/base/scratch.h"
#include "kernels/loss/cpu/cross_entropy_launch.h"

namespace kpt::cpu {
namespace {

constexpr const char* kOp = "cross_entropy_backward";
constexpr Variant<CrossEntropyJob> kVariants[] =
    KPT_CROSS_ENTROPY_VARIANTS(CrossEntropyBackwardRows);

Status CheckGradLogits(const CrossEntropyBackwardArgs& a) {
  const MutableTensorView& grad = a.grad_logits;
  KPT_RETURN_IF_ERROR(CheckLike(kOp, "grad_logits", grad, "logits", a.logits));
  KPT_RETURN_IF_ERROR(CheckWritesOnce(kOp, "grad_logits", grad));
  KPT_RETURN_IF_ERROR(CheckOverlap(kOp, "grad_logits", grad, "logits", a.logits, true));
  KPT_RETURN_IF_ERROR(CheckOverlap(kOp, "grad_logits", grad, "target", a.target, false));
  KPT_RETURN_IF_ERROR(CheckOverlap(kOp, "grad_logits", grad, "lse", a.lse, false));
  KPT_RETURN_IF_ERROR(CheckOverlap(kOp, "grad_logits", grad, "grad_loss", a.grad_loss, false));
  return CheckOverlap(kOp, "grad_logits", grad, "grad_lse", a.grad_lse, false);
}

}  // namespace

Status CrossEntropyBackward(const LaunchContext& ctx, const CrossEntropyBackwardArgs& args) {
  KPT_RETURN_IF_ERROR(CheckClassifier(kOp, args.logits, args.target, args.options));
  const int64_t rows = args.logits.dim(0);
  KPT_RETURN_IF_ERROR(CheckRowVector(kOp, "lse", args.lse, rows));
  KPT_RETURN_IF_ERROR(CheckReduced(kOp, "grad_loss", args.grad_loss, rows, args.options.reduction));
  KPT_RETURN_IF_ERROR(CheckRowVector(kOp, "grad_lse", args.grad_lse, rows));
  KPT_RETURN_IF_ERROR(CheckGradLogits(args));
  if (args.logits.size() == 0) return Status();
  CrossEntropyJob job;
  job.rows = rows;
  job.cols = args.logits.dim(1);
  job.dtype = args.logits.dtype;
  job.logits = args.logits.data;
  job.ld = args.logits.stride(0);
  job.grad = args.grad_logits.mutable_data();
  job.ld_grad = args.grad_logits.stride(0);
  job.stream = job.grad != job.logits && rows * job.cols * ItemSize(job.dtype) >= kStreamBytes;
  CrossEntropyGradient* gradients = ScratchAs<CrossEntropyGradient>(0, static_cast<size_t>(rows));
  if (gradients == nullptr) {
    return Status::ResourceExhausted(std::string(kOp) + ": no memory for scratch buffers");
  }
  PlanGradients(args.options, TargetsOf(args.target), rows, job.cols, args.lse, args.grad_loss,
                args.grad_lse, gradients);
  job.gradients = gradients;
  return RunFirst(kOp, kVariants, ctx, job);
}

std::vector<VariantInfo> CrossEntropyBackwardVariants() { return ListVariants(kVariants); }

}  // namespace kpt::cpu

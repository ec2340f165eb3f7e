#include "kernels/activation/softmax_backward.h"

#include "kernels/activation/cpu/softmax_launch.h"

namespace kpt::cpu {
namespace {

constexpr const char* kOp = "softmax_backward";
constexpr Variant<SoftmaxBackwardJob> kVariants[] =
    KPT_SOFTMAX_VARIANTS(SoftmaxBackwardJob, SoftmaxBackwardRows);

}  // namespace

Status SoftmaxBackward(const LaunchContext& ctx, const SoftmaxBackwardArgs& args) {
  KPT_RETURN_IF_ERROR(CheckRows(kOp, "out", args.out, 1));
  KPT_RETURN_IF_ERROR(CheckLike(kOp, "grad_out", args.grad_out, "out", args.out));
  KPT_RETURN_IF_ERROR(CheckLike(kOp, "grad_x", args.grad_x, "out", args.out));
  if (args.out.size() == 0) return Status();
  KPT_RETURN_IF_ERROR(CheckWritesOnce(kOp, "grad_x", args.grad_x));
  KPT_RETURN_IF_ERROR(CheckOverlap(kOp, "grad_x", args.grad_x, "out", args.out, true));
  KPT_RETURN_IF_ERROR(CheckOverlap(kOp, "grad_x", args.grad_x, "grad_out", args.grad_out, true));
  SoftmaxBackwardJob job;
  job.plan = PlanRows<SoftmaxBackwardJob::kNumTensors>({&args.grad_x, &args.grad_out, &args.out});
  job.cols = args.out.dim(-1);
  job.dtype = args.out.dtype;
  job.scale = args.scale;
  job.grad_x = args.grad_x.mutable_data();
  job.grad_out = args.grad_out.data;
  job.out = args.out.data;
  job.stream = job.grad_x != job.out && job.grad_x != job.grad_out &&
               args.out.size() * ItemSize(job.dtype) >= kStreamBytes;
  return RunFirst(kOp, kVariants, ctx, job);
}

std::vector<VariantInfo> SoftmaxBackwardVariants() { return ListVariants(kVariants); }

}  // namespace kpt::cpu

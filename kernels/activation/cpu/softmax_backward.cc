#include "kernels/activation/softmax_backward.h"

#include "kernels/activation/cpu/softmax_launch.h"
#include "kernels/activation/softmax_checks.h"

namespace kpt::cpu {
namespace {

constexpr const char* kOp = "softmax_backward";
constexpr Variant<SoftmaxBackwardJob> kVariants[] =
    KPT_SOFTMAX_VARIANTS(SoftmaxBackwardJob, SoftmaxBackwardRows);

}  // namespace

Status SoftmaxBackward(const LaunchContext& ctx, const SoftmaxBackwardArgs& args) {
  SoftmaxBackwardJob job;
  KPT_RETURN_IF_ERROR(MakeSoftmaxJob(kOp, args, &job));
  if (job.cols == 0) return Status();
  return RunFirst(kOp, kVariants, ctx, job);
}

std::vector<VariantInfo> SoftmaxBackwardVariants() { return ListVariants(kVariants); }

}  // namespace kpt::cpu

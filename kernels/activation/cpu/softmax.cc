#include "kernels/activation/softmax.h"

#include "kernels/activation/cpu/softmax_launch.h"
#include "kernels/activation/softmax_checks.h"

namespace kpt::cpu {
namespace {

constexpr const char* kOp = "softmax";

constexpr Variant<SoftmaxJob> kVariants[] = KPT_SOFTMAX_VARIANTS(SoftmaxJob, SoftmaxRows);

}  // namespace

Status Softmax(const LaunchContext& ctx, const SoftmaxArgs& args) {
  SoftmaxJob job;
  KPT_RETURN_IF_ERROR(MakeSoftmaxJob(kOp, args, &job));
  if (job.cols == 0) return Status();
  return RunFirst(kOp, kVariants, ctx, job);
}

std::vector<VariantInfo> SoftmaxVariants() { return ListVariants(kVariants); }

}  // namespace kpt::cpu

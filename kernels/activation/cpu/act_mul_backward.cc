#include "kernels/activation/act_mul_backward.h"

#include "kernels/activation/cpu/act_launch.h"

namespace kpt::cpu {
namespace {

constexpr const char* kOp = "act_mul_backward";
constexpr Variant<ActPieces> kVariants[] = KPT_ACT_VARIANTS(ActMulBackwardRows);

}  // namespace

Status ActMulBackward(const LaunchContext& ctx, const ActMulBackwardArgs& args) {
  ActJob job;
  KPT_RETURN_IF_ERROR(MakeActJob(kOp, args, &job));
  if (job.cols == 0) return Status();
  return RunFirst(kOp, kVariants, ctx, CutRows(job));
}

std::vector<VariantInfo> ActMulBackwardVariants() { return ListVariants(kVariants); }

}  // namespace kpt::cpu

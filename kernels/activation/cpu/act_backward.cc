#include "kernels/activation/act_backward.h"

#include "kernels/activation/cpu/act_launch.h"

namespace kpt::cpu {
namespace {

constexpr const char* kOp = "act_backward";
constexpr Variant<ActPieces> kVariants[] = KPT_ACT_VARIANTS(ActBackwardRows);

}  // namespace

Status ActBackward(const LaunchContext& ctx, const ActBackwardArgs& args) {
  ActJob job;
  KPT_RETURN_IF_ERROR(MakeActJob(kOp, args, &job));
  if (job.cols == 0) return Status();
  return RunFirst(kOp, kVariants, ctx, CutRows(job));
}

std::vector<VariantInfo> ActBackwardVariants() { return ListVariants(kVariants); }

}  // namespace kpt::cpu

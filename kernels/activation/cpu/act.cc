#include "kernels/activation/act.h"

#include "kernels/activation/cpu/act_launch.h"

namespace kpt::cpu {
namespace {

constexpr const char* kOp = "act";
constexpr Variant<ActPieces> kVariants[] = KPT_ACT_VARIANTS(ActRows);

}  // namespace

Status Act(const LaunchContext& ctx, const ActArgs& args) {
  ActJob job;
  KPT_RETURN_IF_ERROR(MakeActJob(kOp, args, &job));
  if (job.cols == 0) return Status();
  return RunFirst(kOp, kVariants, ctx, CutRows(job));
}

std::vector<VariantInfo> ActVariants() { return ListVariants(kVariants); }

}  // namespace kpt::cpu

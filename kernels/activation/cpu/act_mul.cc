#include "kernels/activation/act_mul.h"

#include "kernels/activation/cpu/act_launch.h"

namespace kpt::cpu {
namespace {

constexpr const char* kOp = "act_mul";
constexpr Variant<ActPieces> kVariants[] = KPT_ACT_VARIANTS(ActMulRows);

}  // namespace

Status ActMul(const LaunchContext& ctx, const ActMulArgs& args) {
  ActJob job;
  KPT_RETURN_IF_ERROR(MakeActJob(kOp, args, &job));
  if (job.cols == 0) return Status();
  return RunFirst(kOp, kVariants, ctx, CutRows(job));
}

std::vector<VariantInfo> ActMulVariants() { return ListVariants(kVariants); }

}  // namespace kpt::cpu

// act, act_mul and their gradients on a GPU: checks and the choice of a kernel.
#include "kernels/activation/act.h"

#include "kernels/activation/act_backward.h"
#include "kernels/activation/act_checks.h"
#include "kernels/activation/act_mul.h"
#include "kernels/activation/act_mul_backward.h"
#include "kernels/activation/gpu/act_kernels.h"
#include "kernels/base/gpu/row_tiling.h"
#include "kernels/base/gpu_variant.h"

namespace kpt::KPT_BACKEND {
namespace {

bool IsAligned(const LaunchContext&, const ActJob& job) {
  return gpu::RowsAligned16<ActJob::kNumTensors>(job.plan, {job.out, job.x, job.other}, job.cols,
                                                 job.dtype);
}

template <ActOp kOp>
Status Vectors(const LaunchContext& ctx, const ActJob& job) {
  return ActVectors(ctx, kOp, job);
}

template <ActOp kOp>
Status Scalars(const LaunchContext& ctx, const ActJob& job) {
  return ActScalars(ctx, kOp, job);
}

template <ActOp kOp>
constexpr GpuVariant<ActJob> kVariants[] = {
    {"vectors", GpuTarget::kPortable, IsAligned, Vectors<kOp>},
    {"scalars", GpuTarget::kPortable, nullptr, Scalars<kOp>},
};

template <ActOp kOp, class Args>
Status Run(const char* op, const LaunchContext& ctx, const Args& args) {
  ActJob job;
  KPT_RETURN_IF_ERROR(MakeActJob(op, args, &job));
  if (job.cols == 0) return Status();
  return RunFirst(op, kVariants<kOp>, ctx, job);
}

}  // namespace

Status Act(const LaunchContext& ctx, const ActArgs& args) {
  return Run<ActOp::kForward>("act", ctx, args);
}

Status ActBackward(const LaunchContext& ctx, const ActBackwardArgs& args) {
  return Run<ActOp::kBackward>("act_backward", ctx, args);
}

Status ActMul(const LaunchContext& ctx, const ActMulArgs& args) {
  return Run<ActOp::kMul>("act_mul", ctx, args);
}

Status ActMulBackward(const LaunchContext& ctx, const ActMulBackwardArgs& args) {
  return Run<ActOp::kMulBackward>("act_mul_backward", ctx, args);
}

std::vector<VariantInfo> ActVariants() { return ListVariants(kVariants<ActOp::kForward>); }
std::vector<VariantInfo> ActBackwardVariants() { return ListVariants(kVariants<ActOp::kBackward>); }
std::vector<VariantInfo> ActMulVariants() { return ListVariants(kVariants<ActOp::kMul>); }
std::vector<VariantInfo> ActMulBackwardVariants() {
  return ListVariants(kVariants<ActOp::kMulBackward>);
}

}  // namespace kpt::KPT_BACKEND

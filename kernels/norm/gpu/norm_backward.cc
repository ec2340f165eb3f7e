// The gradients of the norms on a GPU: checks, workspace and the choice of a kernel.
#include "kernels/norm/gpu/norm_backward.h"

#include <algorithm>
#include <string>

#include "kernels/base/gpu_variant.h"
#include "kernels/norm/gpu/norm_backward_kernels.h"
#include "kernels/norm/norm_backward_checks.h"

namespace kpt::KPT_BACKEND {
namespace {

bool IsHeld(const LaunchContext&, const NormBackwardJob& job) {
  return gpu::RowsAligned16<NormBackwardJob::kNumTensors>(
             job.plan, {job.grad_x, job.grad_y, job.x, job.grad_sum}, job.cols, job.dtype) &&
         gpu::Aligned16(job.weight) && NormBackwardFits(job, NormBackwardMany(job.subtract_mean));
}

bool HasNoRows(const LaunchContext&, const NormBackwardJob& job) { return job.plan.rows == 0; }

constexpr GpuVariant<NormBackwardJob> kVariants[] = {
    {"no_rows", GpuTarget::kPortable, HasNoRows, NormBackwardNoRows},
    {"rows_held", GpuTarget::kPortable, IsHeld, NormBackwardHeld},
    {"rows_scalar", GpuTarget::kPortable, nullptr, NormBackwardScalar},
};

int64_t WorkspaceBytes(const LaunchContext& ctx, const NormBackwardJob& job) {
  if (ctx.device == nullptr || job.plan.rows == 0 || job.cols == 0) return 0;
  // Whichever variant is going to run.
  const int64_t scalar = NormBackwardScalarBytes(ctx, job);
  return IsHeld(ctx, job) ? std::max(scalar, NormBackwardHeldBytes(ctx, job)) : scalar;
}

Status Run(const char* op, const LaunchContext& ctx, const NormBackwardTensors& tensors, float eps,
           bool subtract_mean) {
  NormBackwardJob job;
  KPT_RETURN_IF_ERROR(MakeNormBackwardJob(op, tensors, eps, subtract_mean, &job));
  if (job.cols == 0 || (job.plan.rows == 0 && !job.has_sums())) return Status();
  const int64_t bytes = WorkspaceBytes(ctx, job);
  if (bytes > ctx.workspace_bytes || !gpu::Aligned16(ctx.workspace)) {
    return Status::InvalidArgument(std::string(op) + ": needs a workspace of " +
                                   std::to_string(bytes) + " bytes, 16-byte aligned, got " +
                                   std::to_string(ctx.workspace_bytes));
  }
  return RunFirst(op, kVariants, ctx, job);
}

NormBackwardTensors TensorsOf(const RmsNormBackwardArgs& args) {
  NormBackwardTensors t;
  t.grad_x = args.grad_x;
  t.grad_weight = args.grad_weight;
  t.grad_y = args.grad_y;
  t.x = args.x;
  t.weight = args.weight;
  t.grad_new_residual = args.grad_new_residual;
  return t;
}

NormBackwardTensors TensorsOf(const LayerNormBackwardArgs& args) {
  NormBackwardTensors t;
  t.grad_x = args.grad_x;
  t.grad_weight = args.grad_weight;
  t.grad_bias = args.grad_bias;
  t.grad_y = args.grad_y;
  t.x = args.x;
  t.weight = args.weight;
  t.bias = args.bias;
  t.grad_new_residual = args.grad_new_residual;
  return t;
}

}  // namespace

Status RmsNormBackward(const LaunchContext& ctx, const RmsNormBackwardArgs& args) {
  return Run("rms_norm_backward", ctx, TensorsOf(args), args.eps, /*subtract_mean=*/false);
}

Status LayerNormBackward(const LaunchContext& ctx, const LayerNormBackwardArgs& args) {
  return Run("layer_norm_backward", ctx, TensorsOf(args), args.eps, /*subtract_mean=*/true);
}

int64_t RmsNormBackwardWorkspaceBytes(const LaunchContext& ctx, const RmsNormBackwardArgs& args) {
  NormBackwardJob job;
  const Status status =
      MakeNormBackwardJob("rms_norm_backward", TensorsOf(args), args.eps, false, &job);
  return status.ok() ? WorkspaceBytes(ctx, job) : 0;
}

int64_t LayerNormBackwardWorkspaceBytes(const LaunchContext& ctx,
                                        const LayerNormBackwardArgs& args) {
  NormBackwardJob job;
  const Status status =
      MakeNormBackwardJob("layer_norm_backward", TensorsOf(args), args.eps, true, &job);
  return status.ok() ? WorkspaceBytes(ctx, job) : 0;
}

std::vector<VariantInfo> RmsNormBackwardVariants() { return ListVariants(kVariants); }
std::vector<VariantInfo> LayerNormBackwardVariants() { return ListVariants(kVariants); }

}  // namespace kpt::KPT_BACKEND

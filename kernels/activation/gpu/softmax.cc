// softmax and its gradient on a GPU: checks and the choice of a kernel.
#include "kernels/activation/softmax.h"

#include "kernels/activation/gpu/softmax_kernels.h"
#include "kernels/activation/softmax_backward.h"
#include "kernels/activation/softmax_checks.h"
#include "kernels/base/gpu/row_tiling.h"
#include "kernels/base/gpu_variant.h"

namespace kpt::KPT_BACKEND {
namespace {

bool IsAligned(const LaunchContext&, const SoftmaxJob& job) {
  return gpu::RowsAligned16<SoftmaxJob::kNumTensors>(job.plan, {job.out, job.x}, job.cols,
                                                     job.dtype);
}

bool IsAligned(const LaunchContext&, const SoftmaxBackwardJob& job) {
  return gpu::RowsAligned16<SoftmaxBackwardJob::kNumTensors>(
      job.plan, {job.grad_x, job.grad_out, job.out}, job.cols, job.dtype);
}

template <int kMaxThreads, class Job>
bool IsHeld(const LaunchContext& ctx, const Job& job) {
  return IsAligned(ctx, job) &&
         job.cols * ItemSize(job.dtype) <= int64_t{16} * kSoftmaxHeldVectors * kMaxThreads;
}

constexpr GpuVariant<SoftmaxJob> kVariants[] = {
    {"rows_held", GpuTarget::kPortable, IsHeld<kSoftmaxMaxThreads, SoftmaxJob>, SoftmaxHeld},
    {"rows_long", GpuTarget::kPortable, IsAligned, SoftmaxLong},
    {"rows_scalar", GpuTarget::kPortable, nullptr, SoftmaxScalar},
};

constexpr GpuVariant<SoftmaxBackwardJob> kBackwardVariants[] = {
    {"rows_held", GpuTarget::kPortable, IsHeld<kSoftmaxBackwardMaxThreads, SoftmaxBackwardJob>,
     SoftmaxBackwardHeld},
    {"rows_long", GpuTarget::kPortable, IsAligned, SoftmaxBackwardLong},
    {"rows_scalar", GpuTarget::kPortable, nullptr, SoftmaxBackwardScalar},
};

}  // namespace

Status Softmax(const LaunchContext& ctx, const SoftmaxArgs& args) {
  SoftmaxJob job;
  KPT_RETURN_IF_ERROR(MakeSoftmaxJob("softmax", args, &job));
  if (job.cols == 0) return Status();
  return RunFirst("softmax", kVariants, ctx, job);
}

Status SoftmaxBackward(const LaunchContext& ctx, const SoftmaxBackwardArgs& args) {
  SoftmaxBackwardJob job;
  KPT_RETURN_IF_ERROR(MakeSoftmaxJob("softmax_backward", args, &job));
  if (job.cols == 0) return Status();
  return RunFirst("softmax_backward", kBackwardVariants, ctx, job);
}

std::vector<VariantInfo> SoftmaxBackwardVariants() { return ListVariants(kBackwardVariants); }
std::vector<VariantInfo> SoftmaxVariants() { return ListVariants(kVariants); }

}  // namespace kpt::KPT_BACKEND

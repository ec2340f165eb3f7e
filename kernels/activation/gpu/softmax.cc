// softmax on a GPU: checks and the choice of a kernel.
#include "kernels/activation/softmax.h"

#include "kernels/activation/gpu/softmax_kernels.h"
#include "kernels/activation/softmax_checks.h"
#include "kernels/base/gpu/row_tiling.h"
#include "kernels/base/gpu_variant.h"

namespace kpt::KPT_BACKEND {
namespace {

bool IsAligned(const LaunchContext&, const SoftmaxJob& job) {
  return gpu::RowsAligned16<SoftmaxJob::kNumTensors>(job.plan, {job.out, job.x}, job.cols,
                                                     job.dtype);
}

bool IsHeld(const LaunchContext& ctx, const SoftmaxJob& job) {
  return IsAligned(ctx, job) &&
         job.cols * ItemSize(job.dtype) <= int64_t{16} * kSoftmaxHeldVectors * kSoftmaxMaxThreads;
}

constexpr GpuVariant<SoftmaxJob> kVariants[] = {
    {"rows_held", GpuTarget::kPortable, IsHeld, SoftmaxHeld},
    {"rows_long", GpuTarget::kPortable, IsAligned, SoftmaxLong},
    {"rows_scalar", GpuTarget::kPortable, nullptr, SoftmaxScalar},
};

}  // namespace

Status Softmax(const LaunchContext& ctx, const SoftmaxArgs& args) {
  SoftmaxJob job;
  KPT_RETURN_IF_ERROR(MakeSoftmaxJob("softmax", args, &job));
  if (job.cols == 0) return Status();
  return RunFirst("softmax", kVariants, ctx, job);
}

std::vector<VariantInfo> SoftmaxVariants() { return ListVariants(kVariants); }

}  // namespace kpt::KPT_BACKEND

// The four norms on a GPU: checks and the choice of a kernel.
#include "kernels/base/gpu_variant.h"
#include "kernels/norm/add_layer_norm.h"
#include "kernels/norm/add_rms_norm.h"
#include "kernels/norm/gpu/norm_kernels.h"
#include "kernels/norm/layer_norm.h"
#include "kernels/norm/norm_checks.h"
#include "kernels/norm/rms_norm.h"

namespace kpt::KPT_BACKEND {
namespace {

bool IsAligned(const LaunchContext&, const NormJob& job) {
  return gpu::RowsAligned16<NormJob::kNumTensors>(job.plan, {job.y, job.x, job.sum, job.residual},
                                                  job.cols, job.dtype) &&
         gpu::Aligned16(job.weight) && gpu::Aligned16(job.bias);
}

bool IsHeld(const LaunchContext& ctx, const NormJob& job) {
  return IsAligned(ctx, job) &&
         job.cols * ItemSize(job.dtype) <= int64_t{16} * kNormHeldVectors * kNormMaxThreads;
}

constexpr GpuVariant<NormJob> kVariants[] = {
    {"rows_held", GpuTarget::kPortable, IsHeld, NormHeld},
    {"rows_long", GpuTarget::kPortable, IsAligned, NormLong},
    {"rows_scalar", GpuTarget::kPortable, nullptr, NormScalar},
};

Status Run(const char* op, const LaunchContext& ctx, const NormTensors& tensors, float eps,
           bool subtract_mean) {
  NormJob job;
  KPT_RETURN_IF_ERROR(MakeNormJob(op, tensors, eps, subtract_mean, &job));
  if (job.plan.rows == 0 || job.cols == 0) return Status();
  return RunFirst(op, kVariants, ctx, job);
}

}  // namespace

Status RmsNorm(const LaunchContext& ctx, const RmsNormArgs& args) {
  NormTensors t;
  t.y = args.y;
  t.x = args.x;
  t.weight = args.weight;
  return Run("rms_norm", ctx, t, args.eps, /*subtract_mean=*/false);
}

Status LayerNorm(const LaunchContext& ctx, const LayerNormArgs& args) {
  NormTensors t;
  t.y = args.y;
  t.x = args.x;
  t.weight = args.weight;
  t.bias = args.bias;
  return Run("layer_norm", ctx, t, args.eps, /*subtract_mean=*/true);
}

Status AddRmsNorm(const LaunchContext& ctx, const AddRmsNormArgs& args) {
  NormTensors t;
  t.y = args.y;
  t.new_residual = args.new_residual;
  t.x = args.x;
  t.residual = args.residual;
  t.weight = args.weight;
  return Run("add_rms_norm", ctx, t, args.eps, /*subtract_mean=*/false);
}

Status AddLayerNorm(const LaunchContext& ctx, const AddLayerNormArgs& args) {
  NormTensors t;
  t.y = args.y;
  t.new_residual = args.new_residual;
  t.x = args.x;
  t.residual = args.residual;
  t.weight = args.weight;
  t.bias = args.bias;
  return Run("add_layer_norm", ctx, t, args.eps, /*subtract_mean=*/true);
}

std::vector<VariantInfo> RmsNormVariants() { return ListVariants(kVariants); }
std::vector<VariantInfo> LayerNormVariants() { return ListVariants(kVariants); }
std::vector<VariantInfo> AddRmsNormVariants() { return ListVariants(kVariants); }
std::vector<VariantInfo> AddLayerNormVariants() { return ListVariants(kVariants); }

}  // namespace kpt::KPT_BACKEND

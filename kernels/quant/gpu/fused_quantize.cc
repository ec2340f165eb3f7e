// fused_norm_quantize and fused_act_quantize on a GPU: checks and the choice of a kernel.
#include "kernels/base/gpu/row_tiling.h"
#include "kernels/base/gpu_variant.h"
#include "kernels/quant/fused_checks.h"
#include "kernels/quant/gpu/fused_kernels.h"

namespace kpt::KPT_BACKEND {
namespace {

bool IsAligned(const LaunchContext&, const GpuFusedJob& job) {
  using J = GpuFusedJob;
  const int64_t width = 16 / ItemSize(job.x_dtype);
  if (job.cols % kQuantUnit != 0) return false;
  if (reinterpret_cast<uintptr_t>(job.codes) % kQuantUnit != 0) return false;
  for (const void* data :
       {job.x, job.residual, static_cast<const void*>(job.sum), job.weight, job.bias}) {
    if (!gpu::Aligned16(data)) return false;
  }
  for (int d = 0; d < job.plan.rank; ++d) {
    if (job.plan.strides[J::kCodes][d] % kQuantUnit != 0) return false;
    for (int t : {J::kX, J::kResidual, J::kSum}) {
      if (job.plan.strides[t][d] % width != 0) return false;
    }
  }
  return true;
}

constexpr GpuVariant<GpuFusedJob> kNormVariants[] = {
    {"vectors", GpuTarget::kPortable, IsAligned, FusedNormVectors},
    {"scalars", GpuTarget::kPortable, nullptr, FusedNormScalars},
};
constexpr GpuVariant<GpuFusedJob> kActVariants[] = {
    {"vectors", GpuTarget::kPortable, IsAligned, FusedActVectors},
    {"scalars", GpuTarget::kPortable, nullptr, FusedActScalars},
};

// What a checked job has of quantization; `y` is what is quantized.
void SetQuantization(const TensorView& y, const TensorView& codes, const TensorView& scale_out,
                     const TensorView& scale_in, Granularity granularity, GpuFusedJob* job) {
  job->cols = y.dim(-1);
  job->blocks = granularity == Granularity::kBlock1x128;
  job->shared = granularity == Granularity::kTensor;
  job->x_dtype = y.dtype;
  job->codes = static_cast<uint8_t*>(const_cast<void*>(codes.data));
  job->scale_in = scale_in.present() ? scale_in.as<float>() : nullptr;
  job->scale_out = static_cast<float*>(const_cast<void*>(scale_out.data));
}

template <int N>
Status Run(const char* op, const GpuVariant<GpuFusedJob> (&variants)[N], const LaunchContext& ctx,
           const GpuFusedJob& job) {
  // Without rows, one scale for all is still handed on.
  if (!job.shared && (job.plan.rows == 0 || (job.cols == 0 && job.blocks))) return Status();
  return RunFirst(op, variants, ctx, job);
}

}  // namespace

Status FusedNormQuantize(const LaunchContext& ctx, const FusedNormQuantizeArgs& args) {
  constexpr const char* kOp = "fused_norm_quantize";
  GpuFusedJob job;
  KPT_RETURN_IF_ERROR(CheckFusedNorm(kOp, args, &job.encoding.format));
  SetQuantization(args.x, args.y_q, args.scale_out, args.scale, args.granularity, &job);
  TensorView sum;
  if (args.residual.present()) sum = args.new_residual;
  const TensorView scale_in = StripView(args.scale, args.x.rank, args.granularity, true);
  const TensorView scale_out = StripView(args.scale_out, args.x.rank, args.granularity, true);
  job.plan = PlanRows<GpuFusedJob::kNumTensors>(
      {&args.y_q, &args.x, &args.residual, &sum, &scale_in, &scale_out});
  job.x = args.x.data;
  job.residual = args.residual.present() ? args.residual.data : nullptr;
  job.sum = const_cast<void*>(sum.data);
  job.weight = args.weight.data;
  job.weight_dtype = args.weight.dtype;
  job.bias = args.bias.data;
  job.bias_dtype = args.bias.dtype;
  job.subtract_mean = args.subtract_mean;
  job.eps = args.eps;
  return Run(kOp, kNormVariants, ctx, job);
}

Status FusedActQuantize(const LaunchContext& ctx, const FusedActQuantizeArgs& args) {
  constexpr const char* kOp = "fused_act_quantize";
  GpuFusedJob job;
  TensorView y;
  KPT_RETURN_IF_ERROR(CheckFusedAct(kOp, args, &y, &job.encoding.format));
  SetQuantization(y, args.y_q, args.scale_out, args.scale, args.granularity, &job);
  const TensorView none;
  const TensorView scale_in = StripView(args.scale, y.rank, args.granularity, true);
  const TensorView scale_out = StripView(args.scale_out, y.rank, args.granularity, true);
  job.plan =
      PlanRows<GpuFusedJob::kNumTensors>({&args.y_q, &y, &none, &none, &scale_in, &scale_out});
  job.x = args.x.data;
  job.kind = args.kind;
  job.gated = args.gated;
  return Run(kOp, kActVariants, ctx, job);
}

std::vector<VariantInfo> FusedNormQuantizeVariants() { return ListVariants(kNormVariants); }
std::vector<VariantInfo> FusedActQuantizeVariants() { return ListVariants(kActVariants); }

}  // namespace kpt::KPT_BACKEND

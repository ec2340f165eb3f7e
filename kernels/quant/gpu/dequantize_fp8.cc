// dequantize_fp8 on a GPU: checks and the choice of a kernel.
#include "kernels/quant/dequantize_fp8.h"

#include "kernels/base/gpu/row_tiling.h"
#include "kernels/base/gpu_variant.h"
#include "kernels/quant/dequantize_checks.h"
#include "kernels/quant/gpu/dequantize_kernels.h"

namespace kpt::KPT_BACKEND {
namespace {

constexpr const char* kOp = "dequantize_fp8";

bool IsAligned(const LaunchContext&, const GpuDequantizeJob& job) {
  using J = GpuDequantizeJob;
  constexpr int64_t kUnit = 8;
  const int64_t width = 16 / ItemSize(job.out_dtype);
  if (job.cols % kUnit != 0 || !gpu::Aligned16(job.out)) return false;
  if (reinterpret_cast<uintptr_t>(job.codes) % kUnit != 0) return false;
  if (job.rows_per_strip > 1 && (job.out_step % width != 0 || job.codes_step % kUnit != 0)) {
    return false;
  }
  for (int d = 0; d < job.plan.rank; ++d) {
    if (job.plan.strides[J::kOut][d] % width != 0) return false;
    if (job.plan.strides[J::kCodes][d] % kUnit != 0) return false;
  }
  return true;
}

constexpr GpuVariant<GpuDequantizeJob> kVariants[] = {
    {"vectors", GpuTarget::kPortable, IsAligned, DequantizeVectors},
    {"scalars", GpuTarget::kPortable, nullptr, DequantizeScalars},
};

}  // namespace

Status DequantizeFp8(const LaunchContext& ctx, const DequantizeFp8Args& args) {
  KPT_RETURN_IF_ERROR(CheckDequantize(kOp, args));
  if (args.x_q.size() == 0) return Status();
  const Granularity granularity = GranularityOf(args.scale, args.x_q);
  const int rank = args.x_q.rank;
  GpuDequantizeJob job;
  job.format = args.x_q.dtype;
  job.out_dtype = args.out.dtype;
  job.codes = args.x_q.as<uint8_t>();
  job.out = args.out.mutable_data();
  job.scale = args.scale.as<float>();
  const TensorView out = StripView(args.out, rank, granularity, false);
  const TensorView codes = StripView(args.x_q, rank, granularity, false);
  const TensorView scale = StripView(args.scale, rank, granularity, true);
  job.cols = args.x_q.dim(-1);
  job.plan = PlanRows<GpuDequantizeJob::kNumTensors>(
      {&out, &codes, &scale}, granularity == Granularity::kTensor ? &job.cols : nullptr);
  const bool square = granularity == Granularity::kBlock128x128;
  const bool blocks = square || granularity == Granularity::kBlock1x128;
  job.group_cols = blocks && job.cols > kScaleBlock ? kScaleBlock : job.cols;
  if (square) {
    job.rows_per_strip = kScaleBlock;
    job.matrix_rows = args.x_q.dim(-2);
    job.strips_per_matrix = ScaleBlocks(job.matrix_rows);
    job.out_step = args.out.stride(-2);
    job.codes_step = args.x_q.stride(-2);
  }
  return RunFirst(kOp, kVariants, ctx, job);
}

std::vector<VariantInfo> DequantizeFp8Variants() { return ListVariants(kVariants); }

}  // namespace kpt::KPT_BACKEND

#include "kernels/quant/dequantize_fp8.h"

#include "kernels/base/parallel_for.h"
#include "kernels/quant/cpu/dequantize_rows.h"
#include "kernels/quant/cpu/make_strips.h"
#include "kernels/quant/dequantize_checks.h"

namespace kpt::cpu {
namespace {

constexpr const char* kOp = "dequantize_fp8";

template <DequantizePiecesFn kPieces>
Status RunPieces(const LaunchContext& ctx, const DequantizeJob& job) {
  ParallelFor(ctx.num_threads, job.plan.rows * job.strips.pieces_per_strip, PieceGrain(job.strips),
              [&](int64_t begin, int64_t end) { kPieces(job, begin, end); });
  return Status();
}

constexpr Variant<DequantizeJob> kVariants[] = {
#if defined(KPT_HAVE_X86_VARIANTS)
    {"rows_avx512_bf16", Isa::kAvx512Bf16, nullptr, RunPieces<avx512_bf16::DequantizePieces>},
    {"rows_avx512", Isa::kAvx512, nullptr, RunPieces<avx512::DequantizePieces>},
    {"rows_avx2", Isa::kAvx2, nullptr, RunPieces<avx2::DequantizePieces>},
#endif
    {"rows_baseline", Isa::kBaseline, nullptr, RunPieces<baseline::DequantizePieces>},
};

}  // namespace

Status DequantizeFp8(const LaunchContext& ctx, const DequantizeFp8Args& args) {
  KPT_RETURN_IF_ERROR(CheckDequantize(kOp, args));
  if (args.x_q.size() == 0) return Status();
  const Granularity granularity = GranularityOf(args.scale, args.x_q);
  const int rank = args.x_q.rank;
  DequantizeJob job;
  job.format = args.x_q.dtype;
  job.out_dtype = args.out.dtype;
  job.codes = args.x_q.as<uint8_t>();
  job.out = args.out.mutable_data();
  job.scale = args.scale.as<float>();
  if (rank > 1) {
    job.codes_step = args.x_q.stride(-2);
    job.out_step = args.out.stride(-2);
  }
  job.stream = args.out.size() * ItemSize(args.out.dtype) >= kStreamBytes;
  const TensorView out = StripView(args.out, rank, granularity, false);
  const TensorView codes = StripView(args.x_q, rank, granularity, false);
  const TensorView scale = StripView(args.scale, rank, granularity, true);
  int64_t cols = args.x_q.dim(-1);
  job.plan = PlanRows<DequantizeJob::kNumTensors>(
      {&out, &codes, &scale}, granularity == Granularity::kTensor ? &cols : nullptr);
  job.strips = MakeStrips(args.x_q, cols, granularity, /*measured=*/false);
  return RunFirst(kOp, kVariants, ctx, job);
}

std::vector<VariantInfo> DequantizeFp8Variants() { return ListVariants(kVariants); }

}  // namespace kpt::cpu

#include "kernels/quant/cpu/quantize_launch.h"

#include <atomic>
#include <cstring>
#include <vector>

#include "kernels/base/parallel_for.h"
#include "kernels/quant/cpu/make_strips.h"
#include "kernels/quant/cpu/scale_rule.h"

namespace kpt::cpu {
namespace {

struct Loops {
  QuantizePiecesFn quantize;
  RangeOfPiecesFn range;
};

// The range of all pieces: each thread's is merged under a lock that it takes once.
Range RangeOfTensor(const LaunchContext& ctx, const QuantizeJob& job, int64_t pieces,
                    RangeOfPiecesFn range_of) {
  Range all;
  std::atomic_flag busy = ATOMIC_FLAG_INIT;
  ParallelFor(ctx.num_threads, pieces, PieceGrain(job.strips), [&](int64_t begin, int64_t end) {
    const Range range = range_of(job, begin, end);
    while (busy.test_and_set(std::memory_order_acquire)) {
    }
    Cover(range, &all);
    busy.clear(std::memory_order_release);
  });
  return all;
}

// Runs the loops. A scale that all groups share is read, measured and written here.
template <QuantizePiecesFn kQuantize, RangeOfPiecesFn kRange>
Status RunPieces(const LaunchContext& ctx, const QuantizeJob& checked) {
  QuantizeJob job = checked;
  const int64_t pieces = job.plan.rows * job.strips.pieces_per_strip;
  ScaleAndZero s;
  float* scale_out = job.scales.scale_out;
  if (job.shared) {
    if (job.spec.measure_scale) {
      s = ScaleOf(job.spec.format, RangeOfTensor(ctx, job, pieces, kRange));
      job.spec.measure_scale = false;
      job.scales.scale_in = &s.scale;
      job.scales.zero_in = &s.zero_point;
    } else {
      s.scale = *job.scales.scale_in;
      if (job.scales.zero_in != nullptr) s.zero_point = *job.scales.zero_in;
    }
    if (job.scales.zero_out != nullptr) *job.scales.zero_out = s.zero_point;
    job.scales.scale_out = nullptr;
    job.scales.zero_out = nullptr;
  }
  // Magnitudes order as their bits do.
  std::atomic<uint32_t> largest{0};
  ParallelFor(ctx.num_threads, pieces, PieceGrain(job.strips), [&](int64_t begin, int64_t end) {
    const uint32_t amax = FloatBits(kQuantize(job, begin, end));
    uint32_t seen = largest.load(std::memory_order_relaxed);
    while (seen < amax && !largest.compare_exchange_weak(seen, amax, std::memory_order_relaxed)) {
    }
  });
  if (job.shared) *scale_out = job.spec.return_amax ? FloatFromBits(largest) : s.scale;
  return Status();
}

constexpr Variant<QuantizeJob> kVariants[] = {
#if defined(KPT_HAVE_X86_VARIANTS)
    {"rows_avx512", Isa::kAvx512, nullptr,
     RunPieces<avx512::QuantizePieces, avx512::RangeOfPieces>},
    {"rows_avx2", Isa::kAvx2, nullptr, RunPieces<avx2::QuantizePieces, avx2::RangeOfPieces>},
#endif
    {"rows_baseline", Isa::kBaseline, nullptr,
     RunPieces<baseline::QuantizePieces, baseline::RangeOfPieces>},
};

}  // namespace

Status RunQuantize(const char* op, const LaunchContext& ctx, const QuantizeTensors& t,
                   Granularity granularity, QuantSpec spec) {
  KPT_RETURN_IF_ERROR(CheckQuantize(op, t, granularity));
  spec.measure_scale = !t.scale_in.present();
  if (spec.return_amax && spec.measure_scale) {
    return Status::InvalidArgument(Argument(op, "return_amax") + "needs a given scale");
  }
  spec.stream = t.x.size() >= kStreamBytes;
  QuantizeJob job;
  job.spec = spec;
  job.shared = granularity == Granularity::kTensor;
  job.x_dtype = t.x.dtype;
  job.x = t.x.data;
  job.codes = static_cast<uint8_t*>(const_cast<void*>(t.codes.data));
  if (t.x.rank > 1) {
    job.x_step = t.x.stride(-2);
    job.codes_step = t.codes.stride(-2);
  }
  job.scales.scale_in = t.scale_in.as<float>();
  job.scales.scale_out = static_cast<float*>(const_cast<void*>(t.scale_out.data));
  job.scales.zero_in = t.zero_in.as<int32_t>();
  job.scales.zero_out = static_cast<int32_t*>(const_cast<void*>(t.zero_out.data));
  const auto strip = [&](const TensorView& view, bool is_scale) {
    return StripView(view, t.x.rank, granularity, is_scale);
  };
  const TensorView codes = strip(t.codes, false), x = strip(t.x, false);
  const TensorView scale_in = strip(t.scale_in, true), scale_out = strip(t.scale_out, true);
  const TensorView zero_in = strip(t.zero_in, true), zero_out = strip(t.zero_out, true);
  int64_t cols = t.x.dim(-1);
  job.plan = PlanRows<QuantizeJob::kNumTensors>(
      {&codes, &x, &scale_in, &scale_out, &zero_in, &zero_out}, job.shared ? &cols : nullptr);
  job.strips = MakeStrips(t.x, cols, granularity, spec.measure_scale || spec.return_amax);
  return RunFirst(op, kVariants, ctx, job);
}

std::vector<VariantInfo> QuantizeVariants() { return ListVariants(kVariants); }

}  // namespace kpt::cpu

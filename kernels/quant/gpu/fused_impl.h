// The loop of the fused operators: a row is made in float by its threads, most of it held in their
// registers, measured there and encoded from there. What makes it is a Maker:
//
//   kHeld                    units of a row that a thread holds
//   Maker(job, at)           of one row; `at` has its offsets in each tensor
//   LoadHeld(units_of, inside, held)
//   Prepare(group, units, active, held)
//                            with those loaded; every thread of the block calls it
//   Finish(unit, v)          the result, of what was loaded; zeros past the row's end
//   Reload(unit, v)          what is not held, for Finish; any number of times after Prepare
#ifndef KPT_KERNELS_QUANT_GPU_FUSED_IMPL_H_
#define KPT_KERNELS_QUANT_GPU_FUSED_IMPL_H_

#include "kernels/base/gpu/launch.h"
#include "kernels/base/gpu/row_group.h"
#include "kernels/base/gpu/row_tiling.h"
#include "kernels/quant/gpu/fused_kernels.h"
#include "kernels/quant/gpu/quantize_device.h"

namespace kpt::KPT_BACKEND {
namespace {

using namespace gpu;  // NOLINT: the vocabulary of kernels

struct FusedParams {
  GpuFusedJob job;
  int threads_per_row;
};

constexpr int kBlockUnits = 128 / kQuantUnit;  // that share a scale; always in one wave

KPT_DEVICE void EncodeFused(const GpuFusedJob& job, const float (&v)[kQuantUnit], float scale,
                            uint32_t (&codes)[2]) {
  const float inverse = 1.0f / scale;
  if (IsFp8(job.encoding.format)) {
    NearestEncoder::Encode(job.encoding, v, inverse, 0, 0, codes);
  } else {
    Int8Encoder::Encode(job.encoding, v, inverse, 0, 0, codes);
  }
}

template <class Maker, class T, bool kAligned>
KPT_KERNEL(kFusedMaxThreads, 1)
FusedQuantizeKernel(KPT_PARAMS(FusedParams) p) {
  using J = GpuFusedJob;
  constexpr int kHeld = Maker::kHeld;
  const J& job = p.job;
  KPT_SHARED(float, scratch, kReduceFloats<2>);
  RowGroup<2> group(p.threads_per_row, scratch);
  if (job.shared && BlockIndex() == 0 && ThreadIndex() == 0) *job.scale_out = *job.scale_in;
  const int64_t units = (job.cols + kQuantUnit - 1) / kQuantUnit;
  for (int64_t first = BlockIndex() * group.rows_per_block(); first < job.plan.rows;
       first += GridBlocks() * group.rows_per_block()) {
    // Threads past the last row reduce along, but load and store nothing.
    const bool active = first + group.row_in_block() < job.plan.rows;
    int64_t at[J::kNumTensors];
    RowOffsets(job.plan, active ? first + group.row_in_block() : first, at);
    Maker maker(job, at);
    const auto unit_of = [&](int u) -> int64_t { return u * group.threads() + group.lane(); };
    const auto inside = [&](int64_t unit) { return active && unit < units; };

    float held[kHeld][kQuantUnit] = {};
    maker.LoadHeld(unit_of, inside, held);
    maker.Prepare(group, units, active, held);
#pragma unroll
    for (int u = 0; u < kHeld; ++u) {
      if (inside(unit_of(u))) maker.Finish(unit_of(u), held[u]);
    }
    const auto store = [&](int64_t unit, const float (&v)[kQuantUnit], float scale) {
      if (!inside(unit)) return;
      uint32_t codes[2];
      EncodeFused(job, v, scale, codes);
      const int64_t c = unit * kQuantUnit;
      StoreCodes<kAligned>(codes, job.codes + at[J::kCodes] + c, job.cols - c);
    };

    const bool measured = job.scale_in == nullptr;
    float measure[2] = {0.0f, 0.0f};
    // The scale of a unit: its row's, or of its 128 columns.
    const auto scale_of = [&](int64_t unit, const float (&v)[kQuantUnit]) {
      if (!job.blocks) {
        return measured ? ScaleOf(job.encoding.format, measure).scale
                        : job.scale_in[at[J::kScaleIn]];
      }
      const int64_t block = unit / kBlockUnits;
      float scale = 1.0f;
      if (measured) {
        float most[2] = {0.0f, 0.0f};
        Measure(job.encoding.format, v, most);
        for (int mask = kBlockUnits / 2; mask > 0; mask /= 2) {
          most[0] = MaxOf(most[0], ShuffleXor(most[0], mask));
        }
        scale = ScaleOf(job.encoding.format, most).scale;
      } else if (inside(unit)) {
        scale = job.scale_in[at[J::kScaleIn] + block];
      }
      if (inside(unit) && unit % kBlockUnits == 0) job.scale_out[at[J::kScaleOut] + block] = scale;
      return scale;
    };
    // Once to measure the row, if need be, and once to encode it. All threads of a row go as far as
    // the first: they meet in shuffles.
    for (int pass = measured && !job.blocks ? 0 : 1; pass < 2; ++pass) {
#pragma unroll
      for (int u = 0; u < kHeld; ++u) {
        if (pass == 0) {
          Measure(job.encoding.format, held[u], measure);
        } else {
          store(unit_of(u), held[u], scale_of(unit_of(u), held[u]));
        }
      }
      const int64_t rest = static_cast<int64_t>(kHeld) * group.threads() + group.lane();
      for (int64_t unit = rest; unit - group.lane() < units; unit += group.threads()) {
        float v[kQuantUnit] = {};
        if (inside(unit)) {
          maker.Reload(unit, v);
          maker.Finish(unit, v);
        }
        if (pass == 0) {
          Measure(job.encoding.format, v, measure);
        } else {
          store(unit, v, scale_of(unit, v));
        }
      }
      if (pass == 0) group.Max(measure);
    }
    if (active && group.lane() == 0 && !job.blocks && !job.shared) {
      job.scale_out[at[J::kScaleOut]] = scale_of(0, held[0]);
    }
  }
}

template <class Maker, class T, bool kAligned>
Status StartFused(const char* op, const LaunchContext& ctx, const GpuFusedJob& job) {
  RowTiling tiling = TileRows(job.plan.rows, (job.cols + kQuantUnit - 1) / kQuantUnit, Maker::kHeld,
                              ctx.device->warp_size, /*block_threads=*/256, kFusedMaxThreads);
  if (tiling.threads_per_row < kBlockUnits) {
    tiling.threads_per_row = kBlockUnits;
    tiling.blocks = (job.plan.rows + tiling.rows_per_block() - 1) / tiling.rows_per_block();
  }
  if (tiling.blocks < 1) tiling.blocks = 1;  // no rows, but a scale
  if (tiling.blocks > kMaxBlocks) tiling.blocks = kMaxBlocks;
  return Launch(op, "fused_quantize", FusedQuantizeKernel<Maker, T, kAligned>, tiling.blocks,
                tiling.block_threads, ctx, FusedParams{job, tiling.threads_per_row});
}

}  // namespace
}  // namespace kpt::KPT_BACKEND

#endif  // KPT_KERNELS_QUANT_GPU_FUSED_IMPL_H_

// The kernels of quantize_fp8 and quantize_int8, for any encoder: included by a file for each,
// since together they would compile for minutes.
#ifndef KPT_KERNELS_QUANT_GPU_QUANTIZE_IMPL_H_
#define KPT_KERNELS_QUANT_GPU_QUANTIZE_IMPL_H_

#include "kernels/base/gpu/launch.h"
#include "kernels/base/gpu/pack.h"
#include "kernels/base/gpu/row_group.h"
#include "kernels/quant/gpu/quantize_device.h"
#include "kernels/quant/gpu/quantize_kernels.h"

namespace kpt::KPT_BACKEND {
namespace {

using namespace gpu;  // NOLINT: the vocabulary of kernels

struct QuantizeParams {
  GpuQuantizeJob job;
  int threads_per_group;
  int64_t measuring_blocks;  // with one scale for all
  float* measures;           // each block's: highest, and minus lowest after all of those
};

// The units of a group, and their codes.
template <class T, bool kAligned>
KPT_DEVICE void MeasureUnit(const GpuQuantizeJob& job, const Unit<T, kAligned>& unit,
                            float (&measure)[2]) {
  float v[kQuantUnit];
  unit.Widen(v);
  Measure(job.encoding.format, v, measure);
}
template <class E, class T, bool kAligned>
KPT_DEVICE void EncodeUnit(const GpuQuantizeJob& job, const Unit<T, kAligned>& unit, float inverse,
                           int zero_point, int64_t index, uint8_t* codes, int64_t left) {
  float v[kQuantUnit];
  unit.Widen(v);
  uint32_t words[2];
  E::Encode(job.encoding, v, inverse, zero_point, static_cast<uint64_t>(index), words);
  StoreCodes<kAligned>(words, codes, left);
}

// Groups of elements that share a scale: kHeld units of each thread stay in registers.
template <class E, class T, int kHeld, bool kAligned>
KPT_KERNEL(kQuantMaxThreads)
QuantizeGroupKernel(KPT_PARAMS(QuantizeParams) p) {
  using U = Unit<T, kAligned>;
  using J = GpuQuantizeJob;
  const J& job = p.job;
  KPT_SHARED(float, scratch, kReduceFloats<2>);
  RowGroup<2> group(p.threads_per_group, scratch);
  const int64_t total = job.plan.rows * job.groups;
  for (int64_t first = BlockIndex() * group.rows_per_block(); first < total;
       first += GridBlocks() * group.rows_per_block()) {
    // Threads past the last group reduce along, but load and store nothing.
    const bool active = first + group.row_in_block() < total;
    const int64_t index = active ? first + group.row_in_block() : first;
    const int64_t strip = index / job.groups;
    const int64_t which = index - strip * job.groups;
    int64_t at[J::kNumTensors];
    RowOffsets(job.plan, strip, at);
    const int64_t begin = which * job.group_cols;
    const int64_t cols = job.cols - begin < job.group_cols ? job.cols - begin : job.group_cols;
    int64_t rows = 1, first_row = strip;
    if (job.rows_per_strip > 1) {
      const int64_t above = strip % job.strips_per_matrix * job.rows_per_strip;
      rows = job.matrix_rows - above < job.rows_per_strip ? job.matrix_rows - above
                                                          : job.rows_per_strip;
      first_row = strip / job.strips_per_matrix * job.matrix_rows + above;
    }
    const T* const x = static_cast<const T*>(job.x) + at[J::kX] + begin;
    uint8_t* const codes = job.codes + at[J::kCodes] + begin;
    const int64_t units_per_row = (cols + kQuantUnit - 1) / kQuantUnit;
    const int64_t units = active ? rows * units_per_row : 0;
    // A division only where a strip has several rows; its units are then few.
    const auto row_of = [&](int64_t unit) -> int64_t {
      if (job.rows_per_strip == 1) return 0;
      return static_cast<uint32_t>(unit) / static_cast<uint32_t>(units_per_row);
    };
    const auto load = [&](int64_t unit) {
      const int64_t r = row_of(unit);
      const int64_t c = (unit - r * units_per_row) * kQuantUnit;
      return U::Load(x + r * job.x_step + c, cols - c);
    };

    U held[kHeld];
    float measure[2] = {0.0f, 0.0f};
#pragma unroll
    for (int u = 0; u < kHeld; ++u) {
      const int64_t unit = static_cast<int64_t>(u) * group.threads() + group.lane();
      held[u] = unit < units ? load(unit) : U::Zero();
    }
    const int64_t rest = static_cast<int64_t>(kHeld) * group.threads() + group.lane();
    if (job.scale_in == nullptr || job.return_amax) {
#pragma unroll
      for (int u = 0; u < kHeld; ++u) MeasureUnit(job, held[u], measure);
      for (int64_t unit = rest; unit < units; unit += group.threads()) {
        MeasureUnit(job, load(unit), measure);
      }
      group.Max(measure);
    }
    ScaleAndZero s;
    if (job.scale_in == nullptr) {
      s = ScaleOf(job.encoding.format, measure);
    } else {
      s.scale = job.scale_in[at[J::kScaleIn] + which];
      s.zero_point = job.zero_in != nullptr ? job.zero_in[at[J::kZeroIn] + which] : 0;
    }
    if (active && group.lane() == 0) {
      job.scale_out[at[J::kScaleOut] + which] = job.return_amax ? measure[0] : s.scale;
      if (job.zero_out != nullptr) job.zero_out[at[J::kZeroOut] + which] = s.zero_point;
    }
    const float inverse = 1.0f / s.scale;
    const auto encode = [&](const U& held_unit, int64_t unit) {
      const int64_t r = row_of(unit);
      const int64_t c = (unit - r * units_per_row) * kQuantUnit;
      EncodeUnit<E>(job, held_unit, inverse, s.zero_point, (first_row + r) * job.cols + begin + c,
                    codes + r * job.codes_step + c, cols - c);
    };
#pragma unroll
    for (int u = 0; u < kHeld; ++u) {
      const int64_t unit = static_cast<int64_t>(u) * group.threads() + group.lane();
      if (unit < units) encode(held[u], unit);
    }
    for (int64_t unit = rest; unit < units; unit += group.threads()) encode(load(unit), unit);
  }
}

constexpr int kTensorThreads = 256;

// With one scale for all. kMeasure: each block's measure of the units that are its. Else encodes,
// by the given scale or by what was measured; every block works out the scale for itself.
template <class E, class T, bool kAligned, bool kMeasure>
KPT_KERNEL(kTensorThreads, 2)
QuantizeTensorKernel(KPT_PARAMS(QuantizeParams) p) {
  using U = Unit<T, kAligned>;
  constexpr int kInFlight = 4;
  using J = GpuQuantizeJob;
  const J& job = p.job;
  KPT_SHARED(float, scratch, kReduceFloats<2>);
  RowGroup<2> group(kTensorThreads, scratch);
  float measure[2] = {0.0f, 0.0f};
  float inverse = 0.0f;
  int zero_point = 0;
  if constexpr (!kMeasure) {
    if (p.measures != nullptr) {
      for (int64_t b = ThreadIndex(); b < p.measuring_blocks; b += kTensorThreads) {
        measure[0] = MaxOf(measure[0], p.measures[b]);
        measure[1] = MaxOf(measure[1], p.measures[p.measuring_blocks + b]);
      }
      group.Max(measure);
    }
    ScaleAndZero s;
    if (job.scale_in == nullptr) {
      s = ScaleOf(job.encoding.format, measure);
    } else {
      s.scale = *job.scale_in;
      s.zero_point = job.zero_in != nullptr ? *job.zero_in : 0;
    }
    if (BlockIndex() == 0 && ThreadIndex() == 0) {
      *job.scale_out = job.return_amax ? measure[0] : s.scale;
      if (job.zero_out != nullptr) *job.zero_out = s.zero_point;
    }
    inverse = 1.0f / s.scale;
    zero_point = s.zero_point;
  }
  const int64_t units_per_row = (job.cols + kQuantUnit - 1) / kQuantUnit;
  const int64_t units = job.plan.rows * units_per_row;
  for (int64_t first = BlockIndex() * kTensorThreads * kInFlight + ThreadIndex(); first < units;
       first += GridBlocks() * kTensorThreads * kInFlight) {
    U held[kInFlight];
    uint8_t* codes[kInFlight];
    int64_t left[kInFlight], index[kInFlight];
#pragma unroll
    for (int u = 0; u < kInFlight; ++u) {
      const int64_t unit = first + u * kTensorThreads;
      left[u] = 0;
      held[u] = U::Zero();
      if (unit >= units) continue;
      const int64_t r = job.plan.rows == 1 ? 0 : unit / units_per_row;
      const int64_t c = (unit - r * units_per_row) * kQuantUnit;
      int64_t at[J::kNumTensors];
      RowOffsets(job.plan, r, at);
      left[u] = job.cols - c;
      index[u] = r * job.cols + c;
      codes[u] = job.codes + at[J::kCodes] + c;
      held[u] = U::Load(static_cast<const T*>(job.x) + at[J::kX] + c, left[u]);
    }
#pragma unroll
    for (int u = 0; u < kInFlight; ++u) {
      if constexpr (kMeasure) {
        MeasureUnit(job, held[u], measure);
      } else if (left[u] > 0) {
        EncodeUnit<E>(job, held[u], inverse, zero_point, index[u], codes[u], left[u]);
      }
    }
  }
  if constexpr (kMeasure) {
    group.Max(measure);
    if (ThreadIndex() == 0) {
      p.measures[BlockIndex()] = measure[0];
      p.measures[GridBlocks() + BlockIndex()] = measure[1];
    }
  }
}

template <class E, class T, bool kAligned>
Status Start(const LaunchContext& ctx, const GpuQuantizeJob& job) {
  const char* const op = job.op;
  QuantizeParams params = {job, 1, 0, nullptr};
  const int64_t units_per_row = (job.group_cols + kQuantUnit - 1) / kQuantUnit;
  if (job.shared) {
    const int64_t most = QuantizeMeasuringBlocks(ctx);
    if (QuantizeWorkspaceBytes(ctx, job) > 0) {
      params.measures = static_cast<float*>(ctx.workspace);
      params.measuring_blocks = most;
      KPT_RETURN_IF_ERROR(Launch(op, "quantize_measure", QuantizeTensorKernel<E, T, kAligned, true>,
                                 most, kTensorThreads, ctx, params));
    }
    const int64_t tiles =
        (job.plan.rows * units_per_row + 4 * kTensorThreads - 1) / (int64_t{4} * kTensorThreads);
    const int64_t blocks = tiles < 1 ? 1 : tiles < 2 * most ? tiles : 2 * most;
    return Launch(op, "quantize_tensor", QuantizeTensorKernel<E, T, kAligned, false>, blocks,
                  kTensorThreads, ctx, params);
  }
  // A block of 128 columns in a row: 16 threads of one unit, so that a wave reads whole lines.
  const bool small = job.rows_per_strip == 1 && units_per_row <= 16;
  constexpr int kHeld = kAligned ? E::kHeld : (E::kHeld + 1) / 2;
  const RowTiling tiling =
      TileRows(job.plan.rows * job.groups, units_per_row * job.rows_per_strip, small ? 1 : kHeld,
               ctx.device->warp_size, 256, kQuantMaxThreads);
  params.threads_per_group = tiling.threads_per_row;
  return Launch(
      op, "quantize_group",
      small ? QuantizeGroupKernel<E, T, 1, kAligned> : QuantizeGroupKernel<E, T, kHeld, kAligned>,
      tiling.blocks, tiling.block_threads, ctx, params);
}

}  // namespace
}  // namespace kpt::KPT_BACKEND

#endif  // KPT_KERNELS_QUANT_GPU_QUANTIZE_IMPL_H_

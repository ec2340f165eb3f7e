// quantize_fp8 on a GPU. Rules of scales and of rounding: kernels/quant/quantize_fp8.h.
//
// Predicted on an H200 (copies reach 4.3 TB/s) at 8192 x 8192 in bfloat16, 134 MB read and 67 MB
// written: 47 us with a scale per row, 1x128 or 128x128 block, which are held in registers from
// measuring to encoding; 47 us with a given scale; 78 us with one measured scale, since all must be
// measured before any is encoded and the tensor is larger than the second-level cache. A NaN loses
// its sign where the processor converts to fp8 itself (sm_89 and later).
#include "kernels/base/gpu/launch.h"
#include "kernels/base/gpu/pack.h"
#include "kernels/base/gpu/row_group.h"
#include "kernels/quant/gpu/quantize_kernels.h"

namespace kpt::KPT_BACKEND {
namespace {

using namespace gpu;  // NOLINT: the vocabulary of kernels

struct QuantizeParams {
  GpuQuantizeJob job;
  int threads_per_group;
  int64_t amax_blocks;  // with one scale for all: how many parts of amax there are
  float* amax;
};

// kQuantUnit elements of x; zeros past the end of the row.
template <class T, bool kAligned>
struct Unit {
  static constexpr int kWidth = kAligned ? kVectorWidth<T> : 1;
  static constexpr int kPacks = kQuantUnit / kWidth;
  using P = Pack<T, kWidth>;

  P packs[kPacks];

  KPT_DEVICE_MEMBER static Unit Zero() {
    Unit unit;
#pragma unroll
    for (int i = 0; i < kPacks; ++i) unit.packs[i] = P::Zero();
    return unit;
  }
  KPT_DEVICE_MEMBER static Unit Load(const T* x, int64_t left) {
    Unit unit;
#pragma unroll
    for (int i = 0; i < kPacks; ++i) {
      unit.packs[i] = kAligned || i < left ? P::Load(x + i * kWidth) : P::Zero();
    }
    return unit;
  }
  KPT_DEVICE_MEMBER void Widen(float (&out)[kQuantUnit]) const {
#pragma unroll
    for (int i = 0; i < kPacks; ++i) {
      float v[kWidth];
      packs[i].Widen(v);
#pragma unroll
      for (int j = 0; j < kWidth; ++j) out[i * kWidth + j] = v[j];
    }
  }
  // The largest magnitude, NaN left out, and `amax`.
  KPT_DEVICE_MEMBER float Amax(float amax) const {
    float v[kQuantUnit];
    Widen(v);
#pragma unroll
    for (int i = 0; i < kQuantUnit; ++i) {
      const float magnitude = BitsToFloat(FloatToBits(v[i]) & 0x7fffffffu);
      amax = magnitude > amax ? magnitude : amax;
    }
    return amax;
  }
  KPT_DEVICE_MEMBER void Encode(float inverse, Fp8Format format, uint8_t* codes,
                                int64_t left) const {
    float v[kQuantUnit];
    Widen(v);
#pragma unroll
    for (int i = 0; i < kQuantUnit; ++i) v[i] *= inverse;
    const uint32_t lo = EncodeFp8x4(v[0], v[1], v[2], v[3], format);
    const uint32_t hi = EncodeFp8x4(v[4], v[5], v[6], v[7], format);
    if constexpr (kAligned) {
      Store8(codes, lo, hi);
    } else {
#pragma unroll
      for (int i = 0; i < kQuantUnit; ++i) {
        if (i < left) codes[i] = static_cast<uint8_t>((i < 4 ? lo : hi) >> (8 * (i % 4)));
      }
    }
  }
};

KPT_DEVICE Fp8Format FormatOf(const GpuQuantizeJob& job) {
  return job.format == DType::kFloat8E4M3FN ? Fp8Format::kE4M3FN : Fp8Format::kE5M2;
}

KPT_DEVICE float ScaleOf(const GpuQuantizeJob& job, float amax) {
  if (amax == 0.0f) return 1.0f;
  const float scale = amax / (job.format == DType::kFloat8E4M3FN ? 448.0f : 57344.0f);
  if (!(scale <= 3.4028234663852886e38f)) return BitsToFloat(0x7fc00000u);
  const float least = BitsToFloat(0x00800000u);  // 2^-126
  return scale < least ? least : scale;
}

// Groups of elements that share a scale: kHeld units of each thread stay in registers.
template <class T, int kHeld, bool kAligned>
KPT_KERNEL(kQuantMaxThreads)
QuantizeGroupKernel(KPT_PARAMS(QuantizeParams) p) {
  using U = Unit<T, kAligned>;
  const GpuQuantizeJob& job = p.job;
  KPT_SHARED(float, scratch, kReduceFloats<1>);
  RowGroup<1> group(p.threads_per_group, scratch);
  const int64_t total = job.plan.rows * job.groups;
  for (int64_t first = BlockIndex() * group.rows_per_block(); first < total;
       first += GridBlocks() * group.rows_per_block()) {
    // Threads past the last group reduce along, but load and store nothing.
    const bool active = first + group.row_in_block() < total;
    const int64_t index = active ? first + group.row_in_block() : first;
    const int64_t strip = index / job.groups;
    const int64_t which = index - strip * job.groups;
    int64_t at[GpuQuantizeJob::kNumTensors];
    RowOffsets(job.plan, strip, at);
    const int64_t begin = which * job.group_cols;
    const int64_t cols = job.cols - begin < job.group_cols ? job.cols - begin : job.group_cols;
    int64_t rows = 1;
    if (job.rows_per_strip > 1) {
      const int64_t left = job.matrix_rows - strip % job.strips_per_matrix * job.rows_per_strip;
      rows = left < job.rows_per_strip ? left : job.rows_per_strip;
    }
    const T* const x = static_cast<const T*>(job.x) + at[GpuQuantizeJob::kX] + begin;
    uint8_t* const codes = job.codes + at[GpuQuantizeJob::kCodes] + begin;
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
    float amax = 0.0f;
#pragma unroll
    for (int u = 0; u < kHeld; ++u) {
      const int64_t unit = static_cast<int64_t>(u) * group.threads() + group.lane();
      held[u] = unit < units ? load(unit) : U::Zero();
    }
    const int64_t rest = static_cast<int64_t>(kHeld) * group.threads() + group.lane();
    float scale;
    if (job.scale_in == nullptr || job.return_amax) {
#pragma unroll
      for (int u = 0; u < kHeld; ++u) amax = held[u].Amax(amax);
      for (int64_t unit = rest; unit < units; unit += group.threads()) {
        amax = load(unit).Amax(amax);
      }
      amax = group.Max(amax);
    }
    if (job.scale_in == nullptr) {
      scale = ScaleOf(job, amax);
    } else {
      scale = job.scale_in[at[GpuQuantizeJob::kScaleIn] + which];
    }
    if (active && group.lane() == 0) {
      job.scale_out[at[GpuQuantizeJob::kScaleOut] + which] = job.return_amax ? amax : scale;
    }
    const float inverse = 1.0f / scale;
    const auto encode = [&](const U& held_unit, int64_t unit) {
      const int64_t r = row_of(unit);
      const int64_t c = (unit - r * units_per_row) * kQuantUnit;
      held_unit.Encode(inverse, FormatOf(job), codes + r * job.codes_step + c, cols - c);
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

// With one scale for all. kMeasure: each block's amax of the units that are its. Else encodes, by
// the given scale or by what was measured; every block works out the scale for itself.
template <class T, bool kAligned, bool kMeasure>
KPT_KERNEL(kTensorThreads, 2)
QuantizeTensorKernel(KPT_PARAMS(QuantizeParams) p) {
  using U = Unit<T, kAligned>;
  constexpr int kInFlight = 4;
  const GpuQuantizeJob& job = p.job;
  KPT_SHARED(float, scratch, kReduceFloats<1>);
  RowGroup<1> group(kTensorThreads, scratch);
  float inverse = 0.0f;
  if constexpr (!kMeasure) {
    float amax = 0.0f;
    if (p.amax != nullptr) {
      for (int64_t b = ThreadIndex(); b < p.amax_blocks; b += kTensorThreads) {
        amax = MaxOf(amax, p.amax[b]);
      }
      amax = group.Max(amax);
    }
    const float scale = job.scale_in != nullptr ? *job.scale_in : ScaleOf(job, amax);
    if (BlockIndex() == 0 && ThreadIndex() == 0) *job.scale_out = job.return_amax ? amax : scale;
    inverse = 1.0f / scale;
  }
  const int64_t units_per_row = (job.cols + kQuantUnit - 1) / kQuantUnit;
  const int64_t units = job.plan.rows * units_per_row;
  float amax = 0.0f;
  for (int64_t first = BlockIndex() * kTensorThreads * kInFlight + ThreadIndex(); first < units;
       first += GridBlocks() * kTensorThreads * kInFlight) {
    U held[kInFlight];
    uint8_t* codes[kInFlight];
    int64_t left[kInFlight];
#pragma unroll
    for (int u = 0; u < kInFlight; ++u) {
      const int64_t unit = first + u * kTensorThreads;
      left[u] = 0;
      held[u] = U::Zero();
      if (unit >= units) continue;
      const int64_t r = job.plan.rows == 1 ? 0 : unit / units_per_row;
      const int64_t c = (unit - r * units_per_row) * kQuantUnit;
      int64_t at[GpuQuantizeJob::kNumTensors];
      RowOffsets(job.plan, r, at);
      left[u] = job.cols - c;
      codes[u] = job.codes + at[GpuQuantizeJob::kCodes] + c;
      held[u] = U::Load(static_cast<const T*>(job.x) + at[GpuQuantizeJob::kX] + c, left[u]);
    }
#pragma unroll
    for (int u = 0; u < kInFlight; ++u) {
      if constexpr (kMeasure) {
        amax = held[u].Amax(amax);
      } else {
        if (left[u] > 0) held[u].Encode(inverse, FormatOf(job), codes[u], left[u]);
      }
    }
  }
  if constexpr (kMeasure) {
    amax = group.Max(amax);
    if (ThreadIndex() == 0) p.amax[BlockIndex()] = amax;
  }
}

constexpr const char* kOp = "quantize_fp8";

template <class T, bool kAligned>
Status Run(const LaunchContext& ctx, const GpuQuantizeJob& job) {
  QuantizeParams params = {job, 1, 0, nullptr};
  const int64_t units_per_row = (job.group_cols + kQuantUnit - 1) / kQuantUnit;
  if (job.shared) {
    const int64_t most = QuantizeAmaxBlocks(ctx);
    if (QuantizeWorkspaceBytes(ctx, job) > 0) {
      params.amax = static_cast<float*>(ctx.workspace);
      params.amax_blocks = most;
      KPT_RETURN_IF_ERROR(Launch(kOp, "quantize_measure", QuantizeTensorKernel<T, kAligned, true>,
                                 most, kTensorThreads, ctx, params));
    }
    const int64_t tiles =
        (job.plan.rows * units_per_row + 4 * kTensorThreads - 1) / (int64_t{4} * kTensorThreads);
    const int64_t blocks = tiles < 1 ? 1 : tiles < 2 * most ? tiles : 2 * most;
    return Launch(kOp, "quantize_tensor", QuantizeTensorKernel<T, kAligned, false>, blocks,
                  kTensorThreads, ctx, params);
  }
  // A block of 128 columns in a row: 16 threads of one unit, so that a wave reads whole lines.
  const bool small = job.rows_per_strip == 1 && units_per_row <= 16;
  const RowTiling tiling =
      TileRows(job.plan.rows * job.groups, units_per_row * job.rows_per_strip,
               small ? 1 : kQuantHeldUnits, ctx.device->warp_size, 256, kQuantMaxThreads);
  params.threads_per_group = tiling.threads_per_row;
  return Launch(kOp, "quantize_group",
                small ? QuantizeGroupKernel<T, 1, kAligned>
                      : QuantizeGroupKernel<T, kQuantHeldUnits, kAligned>,
                tiling.blocks, tiling.block_threads, ctx, params);
}

template <bool kAligned>
Status RunAny(const LaunchContext& ctx, const GpuQuantizeJob& job) {
  switch (job.x_dtype) {
    case DType::kFloat32:
      return Run<float, kAligned>(ctx, job);
    case DType::kFloat16:
      return Run<Float16, kAligned>(ctx, job);
    default:
      return Run<BFloat16, kAligned>(ctx, job);
  }
}

}  // namespace

Status QuantizeVectors(const LaunchContext& ctx, const GpuQuantizeJob& job) {
  return RunAny<true>(ctx, job);
}

Status QuantizeScalars(const LaunchContext& ctx, const GpuQuantizeJob& job) {
  return RunAny<false>(ctx, job);
}

}  // namespace kpt::KPT_BACKEND

// fused_norm_quantize on a GPU. Formulas: kernels/quant/fused_norm_quantize.h.
//
// Predicted on an H200 (copies reach 4.3 TB/s) at 8192 x 8192 in bfloat16: 134 MB read and 67 MB
// written, 47 us, where norm and quantize_fp8 one after the other take 109; with a residual, 3 x
// 134 and 67 MB, 110 us. A row is held in the registers of its threads from the only read of it to
// the codes; a multiprocessor has 2048 threads with 2 x 16 bytes in flight, twice what its share of
// the bandwidth times the latency of memory asks for.
#include "kernels/base/gpu/norm_statistics.h"
#include "kernels/quant/gpu/fused_impl.h"

namespace kpt::KPT_BACKEND {
namespace {

template <class T, bool kAligned>
class NormMaker {
 public:
  using U = Unit<T, kAligned>;
  static constexpr int kHeld = 4;

  KPT_DEVICE_MEMBER NormMaker(const GpuFusedJob& job, const int64_t (&at)[GpuFusedJob::kNumTensors])
      : job_(job),
        x_(static_cast<const T*>(job.x) + at[GpuFusedJob::kX]),
        residual_(static_cast<const T*>(job.residual) + at[GpuFusedJob::kResidual]),
        sum_(static_cast<T*>(job.sum) + at[GpuFusedJob::kSum]) {}

  template <class UnitOf, class Inside>
  KPT_DEVICE_MEMBER void LoadHeld(const UnitOf& unit_of, const Inside& inside,
                                  float (&v)[kHeld][kQuantUnit]) {
#pragma unroll
    for (int u = 0; u < kHeld; ++u) {
      if (inside(unit_of(u))) Load(unit_of(u), v[u]);
    }
  }

  // x, or x + residual as it is stored, so rounded.
  KPT_DEVICE_MEMBER void Load(int64_t unit, float (&v)[kQuantUnit]) {
    const int64_t c = unit * kQuantUnit, left = job_.cols - c;
    U::Load(x_ + c, left).Widen(v);
    if (job_.residual == nullptr) return;
    float r[kQuantUnit];
    U::Load(residual_ + c, left).Widen(r);
#pragma unroll
    for (int i = 0; i < kQuantUnit; ++i) v[i] += r[i];
    U::StoreRounded(v, sum_ + c, left);
  }

  // A thread reads again what it has written itself: no barrier is needed.
  KPT_DEVICE_MEMBER void Reload(int64_t unit, float (&v)[kQuantUnit]) {
    const int64_t c = unit * kQuantUnit;
    const T* const stored = job_.residual != nullptr ? sum_ : x_;
    U::Load(stored + c, job_.cols - c).Widen(v);
  }

  KPT_DEVICE_MEMBER void Prepare(RowGroup<2>& group, int64_t units, bool active,
                                 const float (&held)[kHeld][kQuantUnit]) {
    const int64_t rest = static_cast<int64_t>(kHeld) * group.threads() + group.lane();
    const float count = static_cast<float>(job_.cols);
    float v[kQuantUnit];
    float sum = 0.0f;
#pragma unroll
    for (int u = 0; u < kHeld; ++u) sum += SumOfUnit(held[u]);
    for (int64_t unit = rest; active && unit < units; unit += group.threads()) {
      Load(unit, v);  // the first time: this also makes the sums
      sum += SumOfUnit(v);
    }
    const float shift = job_.subtract_mean ? group.Sum(sum) / count : 0.0f;
    float sums[2] = {0.0f, 0.0f};
#pragma unroll
    for (int u = 0; u < kHeld; ++u) {
      const int64_t unit = static_cast<int64_t>(u) * group.threads() + group.lane();
      if (active && unit < units) AddMoments(unit, held[u], shift, sums);
    }
    for (int64_t unit = rest; active && unit < units; unit += group.threads()) {
      Reload(unit, v);
      AddMoments(unit, v, shift, sums);
    }
    group.Sum(sums);
    statistics_ = StatisticsOf(job_.subtract_mean, shift, sums[0], sums[1], count, job_.eps);
  }

  KPT_DEVICE_MEMBER void Finish(int64_t unit, float (&v)[kQuantUnit]) {
    const int64_t c = unit * kQuantUnit, left = job_.cols - c;
    const NormStatistics& s = statistics_;
#pragma unroll
    for (int i = 0; i < kQuantUnit; ++i) v[i] = ((v[i] - s.shift) - s.rest) * s.rstd;
    if (job_.weight != nullptr) {
      float w[kQuantUnit];
      Param(job_.weight, job_.weight_dtype, c, left, w);
#pragma unroll
      for (int i = 0; i < kQuantUnit; ++i) v[i] *= w[i];
    }
    if (job_.bias != nullptr) {
      float b[kQuantUnit];
      Param(job_.bias, job_.bias_dtype, c, left, b);
#pragma unroll
      for (int i = 0; i < kQuantUnit; ++i) v[i] += b[i];
    }
#pragma unroll
    for (int i = 0; i < kQuantUnit; ++i) v[i] = kAligned || i < left ? v[i] : 0.0f;
  }

 private:
  KPT_DEVICE_MEMBER static float SumOfUnit(const float (&v)[kQuantUnit]) {
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < kQuantUnit; ++i) sum += v[i];
    return sum;
  }
  KPT_DEVICE_MEMBER void AddMoments(int64_t unit, const float (&v)[kQuantUnit], float shift,
                                    float (&sums)[2]) {
    const int64_t left = job_.cols - unit * kQuantUnit;
#pragma unroll
    for (int i = 0; i < kQuantUnit; ++i) {
      const float distance = kAligned || i < left ? v[i] - shift : 0.0f;
      sums[0] += distance;
      sums[1] += distance * distance;
    }
  }
  KPT_DEVICE_MEMBER static void Param(const void* data, DType dtype, int64_t c, int64_t left,
                                      float (&out)[kQuantUnit]) {
    if (dtype == DType::kFloat32) {
      Unit<float, kAligned>::Load(static_cast<const float*>(data) + c, left).Widen(out);
    } else {
      U::Load(static_cast<const T*>(data) + c, left).Widen(out);
    }
  }

  const GpuFusedJob& job_;
  const T* x_;
  const T* residual_;
  T* sum_;
  NormStatistics statistics_;
};

template <class T, bool kAligned>
Status Run(const LaunchContext& ctx, const GpuFusedJob& job) {
  return StartFused<NormMaker<T, kAligned>, T, kAligned>("fused_norm_quantize", ctx, job);
}

}  // namespace

Status FusedNormVectors(const LaunchContext& ctx, const GpuFusedJob& job) {
  return ForFloatType(job.x_dtype, [&](auto t) { return Run<decltype(t), true>(ctx, job); });
}

Status FusedNormScalars(const LaunchContext& ctx, const GpuFusedJob& job) {
  return ForFloatType(job.x_dtype, [&](auto t) { return Run<decltype(t), false>(ctx, job); });
}

}  // namespace kpt::KPT_BACKEND

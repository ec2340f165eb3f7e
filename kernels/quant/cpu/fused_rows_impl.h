// NormQuantizeRows and ActQuantizeRows, for the instruction set that the including file is compiled
// for.
#ifndef KPT_KERNELS_QUANT_CPU_FUSED_ROWS_IMPL_H_
#define KPT_KERNELS_QUANT_CPU_FUSED_ROWS_IMPL_H_

#include "kernels/base/simd_math.h"
#include "kernels/base/simd_norm.h"
#include "kernels/quant/cpu/fused_rows.h"
#include "kernels/quant/cpu/quantize_groups.h"

HWY_BEFORE_NAMESPACE();
namespace kpt::cpu::KPT_SIMD_NS {
namespace {

// Quantizes a row that was made.
void QuantizeRow(const FusedJob& job, const int64_t (&at)[FusedJob::kNumTensors],
                 const float* row) {
  GroupScales scales = job.scales;
  if (scales.scale_in != nullptr) scales.scale_in += at[FusedJob::kScaleIn];
  if (scales.scale_out != nullptr) scales.scale_out += at[FusedJob::kScaleOut];
  Block<float> b{};
  b.rows = 1;
  b.group = job.group > 0 ? job.group : 1;
  const bool one_group = job.group == job.cols;
  const int64_t piece = one_group ? job.cols : kMaxGroups * job.group;
  int64_t c = 0;
  do {
    b.x = row + c;
    b.codes = job.codes + at[FusedJob::kCodes] + c;
    b.n = job.cols - c < piece ? job.cols - c : piece;
    QuantizeBlock(job.spec, b, scales);
    if (scales.scale_in != nullptr) scales.scale_in += kMaxGroups;
    if (scales.scale_out != nullptr) scales.scale_out += kMaxGroups;
  } while ((c += piece) < job.cols);
}

template <bool kMean, class T>
void NormalizeToFloat(const T* x, int64_t n, const Statistics& s, const Params& params, float* y) {
  const FloatTag df;
  const FloatVec rstd = hn::Set(df, s.rstd);
  const FloatVec shift = hn::Set(df, s.shift);
  const FloatVec offset = hn::Set(df, s.offset);
  for (int64_t i = 0; i < n; i += kLanes) {
    const int64_t m = n - i;
    FloatVec v = LoadUpTo(x + i, m);
    const FloatVec w = LoadUpTo(params.weight + i, m);
    if constexpr (kMean) {
      v = hn::MulAdd(hn::MulAdd(hn::Sub(v, shift), rstd, offset), w, LoadUpTo(params.bias + i, m));
    } else {
      v = hn::Mul(hn::Mul(v, rstd), w);
    }
    if (m >= kLanes) {
      hn::StoreU(v, df, y + i);
    } else {
      StoreN(v, y + i, m);
    }
  }
}

template <class T, bool kMean, bool kAdd>
void NormRowsOf(const FusedJob& job, int64_t begin, int64_t end, float* row) {
  const int64_t n = job.cols;
  Params params;
  const bool fits = n <= kPiece;
  if (fits) params.Load<float>(job, 0, n);
  for (int64_t r = begin; r < end; ++r) {
    int64_t at[FusedJob::kNumTensors];
    RowOffsets(job.plan, r, at);
    Source<T, kAdd> source{static_cast<const T*>(job.x) + at[FusedJob::kX], nullptr, nullptr};
    const T* stored = source.x;  // the row to normalize
    if constexpr (kAdd) {
      source.residual = static_cast<const T*>(job.residual) + at[FusedJob::kResidual];
      source.sum = static_cast<T*>(job.sum) + at[FusedJob::kSum];
      stored = source.sum;
    }
    if (n > 0) {
      const Statistics s = StatisticsOf<kMean>(source, stored, n, job.eps);
      for (int64_t c = 0; c < n; c += kPiece) {
        const int64_t m = n - c < kPiece ? n - c : kPiece;
        if (!fits) params.Load<float>(job, c, m);
        NormalizeToFloat<kMean>(stored + c, m, s, params, row + c);
      }
    }
    QuantizeRow(job, at, row);
  }
}

template <class T>
void NormRowsOf(const FusedJob& job, int64_t begin, int64_t end, float* row) {
  if (job.residual != nullptr) {
    if (job.subtract_mean) return NormRowsOf<T, true, true>(job, begin, end, row);
    return NormRowsOf<T, false, true>(job, begin, end, row);
  }
  if (job.subtract_mean) return NormRowsOf<T, true, false>(job, begin, end, row);
  return NormRowsOf<T, false, false>(job, begin, end, row);
}

// The precise functions: the fast ones err by a fixed amount where a result is small, and a row of
// small results gets a small scale.
template <class T>
void ActRowsOf(const FusedJob& job, int64_t begin, int64_t end, float* row) {
  const int64_t n = job.cols;
  SwitchKind(job.kind, [&](auto kind) {
    constexpr ActivationKind kKind = decltype(kind)::value;
    for (int64_t r = begin; r < end; ++r) {
      int64_t at[FusedJob::kNumTensors];
      RowOffsets(job.plan, r, at);
      const T* x = static_cast<const T*>(job.x) + at[FusedJob::kX];
      if (job.gated) {
        MapRow<false>([](FloatVec gate, FloatVec up)
                          HWY_ATTR { return hn::Mul(Activate<kKind, false>(gate), up); },
                      n, row, x, x + n);
      } else {
        MapRow<false>([](FloatVec v) HWY_ATTR { return Activate<kKind, false>(v); }, n, row, x);
      }
      QuantizeRow(job, at, row);
    }
  });
}

}  // namespace

#define KPT_DEFINE_FUSED_ROWS(name, function)                              \
  void name(const FusedJob& job, int64_t begin, int64_t end, float* row) { \
    switch (job.x_dtype) {                                                 \
      case DType::kFloat32:                                                \
        return function<float>(job, begin, end, row);                      \
      case DType::kFloat16:                                                \
        return function<Half>(job, begin, end, row);                       \
      default:                                                             \
        return function<BFloat16>(job, begin, end, row);                   \
    }                                                                      \
  }
KPT_DEFINE_FUSED_ROWS(NormQuantizeRows, NormRowsOf)
KPT_DEFINE_FUSED_ROWS(ActQuantizeRows, ActRowsOf)
#undef KPT_DEFINE_FUSED_ROWS

}  // namespace kpt::cpu::KPT_SIMD_NS
HWY_AFTER_NAMESPACE();

#endif  // KPT_KERNELS_QUANT_CPU_FUSED_ROWS_IMPL_H_

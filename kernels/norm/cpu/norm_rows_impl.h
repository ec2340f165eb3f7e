// NormRows, for the instruction set that the including file is compiled for.
#ifndef KPT_KERNELS_NORM_CPU_NORM_ROWS_IMPL_H_
#define KPT_KERNELS_NORM_CPU_NORM_ROWS_IMPL_H_

#include "kernels/base/simd_io.h"
#include "kernels/base/simd_norm.h"
#include "kernels/norm/cpu/norm_rows.h"

HWY_BEFORE_NAMESPACE();
namespace kpt::cpu::KPT_SIMD_NS {
namespace {

// y[i] = f(x[i], weight[i], bias[i]); the parameters in the order of LoadBoth. Prefetches what lies
// `ahead` elements further, unless that is 0.
template <bool kStream, class T, class F>
void MapWithParams(const F& f, int64_t n, const T* x, const float* weight, const float* bias, T* y,
                   int64_t ahead) {
  int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    FloatVec a, b;
    if (ahead != 0) PrefetchRow(x + i + ahead, 2 * kLanes);
    LoadBoth(x + i, &a, &b);
    a = f(a, Load(weight + i), Load(bias + i));
    b = f(b, Load(weight + i + kLanes), Load(bias + i + kLanes));
    StoreBoth<kStream>(a, b, y + i);
  }
  for (; i < n; i += kLanes) {
    const int64_t m = n - i < kLanes ? n - i : kLanes;
    StoreN(f(LoadN(x + i, m), LoadN(weight + i, m), LoadN(bias + i, m)), y + i, m);
  }
}

template <bool kMean, bool kStream, class T>
void NormalizeTo(const T* x, int64_t n, const Statistics& s, const float* weight, const float* bias,
                 T* y, int64_t ahead) {
  const FloatTag df;
  const FloatVec rstd = hn::Set(df, s.rstd);
  if constexpr (kMean) {
    const FloatVec shift = hn::Set(df, s.shift);
    const FloatVec offset = hn::Set(df, s.offset);
    const auto normalize = [=](FloatVec v, FloatVec w, FloatVec b) HWY_ATTR {
      return hn::MulAdd(hn::MulAdd(hn::Sub(v, shift), rstd, offset), w, b);
    };
    MapWithParams<kStream>(normalize, n, x, weight, bias, y, ahead);
  } else {
    const auto normalize = [=](FloatVec v, FloatVec w, FloatVec)
                               HWY_ATTR { return hn::Mul(hn::Mul(v, rstd), w); };
    MapWithParams<kStream>(normalize, n, x, weight, /*bias (unused)=*/weight, y, ahead);
  }
}

template <bool kMean, bool kStream, class T>
void Normalize(const T* x, int64_t n, const Statistics& s, const float* weight, const float* bias,
               T* y, int64_t ahead) {
  if constexpr (kStream) {
    // The order of the parameters ties the vectors to the row's start.
    if (StreamPrefix(y, n) == 0) {
      return NormalizeTo<kMean, true>(x, n, s, weight, bias, y, ahead);
    }
  }
  NormalizeTo<kMean, false>(x, n, s, weight, bias, y, ahead);
}

template <class T, bool kMean, bool kAdd, bool kStream>
void Rows(const NormJob& job, int64_t begin, int64_t end) {
  const int64_t n = job.cols;
  Params params;
  const bool fits = n <= kPiece;
  if (fits) params.Load<T>(job, 0, n);
  for (int64_t row = begin; row < end; ++row) {
    int64_t at[NormJob::kNumTensors];
    RowOffsets(job.plan, row, at);
    T* y = static_cast<T*>(job.y) + at[NormJob::kY];
    Source<T, kAdd> source{static_cast<const T*>(job.x) + at[NormJob::kX], nullptr, nullptr};
    const T* stored = source.x;  // the row to normalize
    if constexpr (kAdd) {
      source.residual = static_cast<const T*>(job.residual) + at[NormJob::kResidual];
      source.sum = static_cast<T*>(job.sum) + at[NormJob::kSum];
      stored = source.sum;
    }
    int64_t ahead = 0;
    if (kStream && row + 1 < end) {
      RowOffsets(job.plan, row + 1, at);
      ahead = static_cast<const T*>(job.x) + at[NormJob::kX] - stored;
    }
    const Statistics s = StatisticsOf<kMean>(source, stored, n, job.eps);
    for (int64_t c = 0; c < n; c += kPiece) {
      const int64_t m = n - c < kPiece ? n - c : kPiece;
      if (!fits) params.Load<T>(job, c, m);
      Normalize<kMean, kStream>(stored + c, m, s, params.weight, params.bias, y + c, ahead);
    }
  }
}

template <class T>
void RowsOf(const NormJob& job, int64_t begin, int64_t end) {
  if (job.residual != nullptr) {
    if (job.subtract_mean) {
      Rows<T, true, true, false>(job, begin, end);
    } else {
      Rows<T, false, true, false>(job, begin, end);
    }
  } else if (job.stream) {
    if (job.subtract_mean) {
      Rows<T, true, false, true>(job, begin, end);
    } else {
      Rows<T, false, false, true>(job, begin, end);
    }
  } else {
    if (job.subtract_mean) {
      Rows<T, true, false, false>(job, begin, end);
    } else {
      Rows<T, false, false, false>(job, begin, end);
    }
  }
}

}  // namespace

void NormRows(const NormJob& job, int64_t begin, int64_t end) {
  switch (job.dtype) {
    case DType::kFloat32:
      return RowsOf<float>(job, begin, end);
    case DType::kFloat16:
      return RowsOf<Half>(job, begin, end);
    default:
      return RowsOf<BFloat16>(job, begin, end);
  }
}

}  // namespace kpt::cpu::KPT_SIMD_NS
HWY_AFTER_NAMESPACE();

#endif  // KPT_KERNELS_NORM_CPU_NORM_ROWS_IMPL_H_

// NormRows, for the instruction set that the including file is compiled for.
//
// A row is read from memory once: narrow rows are widened to float into a buffer that stays in the
// first-level cache while the statistics are taken, and normalized from there. Their variance
// usually comes from the same pass as their mean; float rows take a pass for each.
#ifndef KPT_KERNELS_NORM_CPU_NORM_ROWS_IMPL_H_
#define KPT_KERNELS_NORM_CPU_NORM_ROWS_IMPL_H_

#include <cmath>
#include <type_traits>

#include "kernels/base/simd_io.h"
#include "kernels/norm/cpu/norm_rows.h"

HWY_BEFORE_NAMESPACE();
namespace kpt::cpu::KPT_SIMD_NS {
namespace {

// Longest row (in floats) whose widened copy is kept; longer rows are read again for each pass, and
// their parameters are widened piece by piece.
constexpr int64_t kKeep = 4096;

// Four accumulators hide the latency of the additions.
struct Sum4 {
  FloatVec a = hn::Zero(FloatTag()), b = a, c = a, d = a;
  float Total() const { return hn::ReduceSum(FloatTag(), hn::Add(hn::Add(a, b), hn::Add(c, d))); }
};

// What the first pass reads: x, or x + residual as rounded into `sum`.
template <class T, bool kAdd>
struct Source {
  const T* x;
  const T* residual;
  T* sum;

  void Pair(int64_t i, FloatVec* a, FloatVec* b) const {
    *a = Load(x + i);
    *b = Load(x + i + kLanes);
    if constexpr (kAdd) {
      *a = hn::Add(*a, Load(residual + i));
      *b = hn::Add(*b, Load(residual + i + kLanes));
      StorePair<false>(*a, *b, sum + i);
      if constexpr (!std::is_same_v<T, float>) {  // what was stored, that is, rounded
        *a = Load(sum + i);
        *b = Load(sum + i + kLanes);
      }
    }
  }
  FloatVec Tail(int64_t i, int64_t m) const {
    FloatVec a = LoadN(x + i, m);
    if constexpr (kAdd) {
      a = hn::Add(a, LoadN(residual + i, m));
      StoreN(a, sum + i, m);
      if constexpr (!std::is_same_v<T, float>) a = LoadN(sum + i, m);
    }
    return a;
  }
};

// First pass: the row's sum (kMean) or sum of squares; with kWiden also a float copy in `keep`.
template <bool kMean, bool kWiden, class T, bool kAdd>
float FirstPass(const Source<T, kAdd>& row, int64_t n, float* keep) {
  const FloatTag df;
  Sum4 sum;
  const auto add = [](FloatVec v, FloatVec* s)
                       HWY_ATTR { *s = kMean ? hn::Add(*s, v) : hn::MulAdd(v, v, *s); };
  int64_t i = 0;
  FloatVec a, b, c, d;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    row.Pair(i, &a, &b);
    row.Pair(i + 2 * kLanes, &c, &d);
    if constexpr (kWiden) {
      hn::StoreU(a, df, keep + i);
      hn::StoreU(b, df, keep + i + kLanes);
      hn::StoreU(c, df, keep + i + 2 * kLanes);
      hn::StoreU(d, df, keep + i + 3 * kLanes);
    }
    add(a, &sum.a);
    add(b, &sum.b);
    add(c, &sum.c);
    add(d, &sum.d);
  }
  for (; i < n; i += kLanes) {
    const int64_t m = n - i < kLanes ? n - i : kLanes;
    a = row.Tail(i, m);
    if constexpr (kWiden) StoreN(a, keep + i, m);
    add(a, &sum.a);  // the lanes past the end are zero
  }
  return sum.Total();
}

// The first pass of a narrow row with a mean: its elements less `shift` go to `keep`, their sum and
// sum of squares come back.
template <class T, bool kAdd>
void ShiftedPass(const Source<T, kAdd>& row, int64_t n, float shift, float* keep, float* first,
                 float* second) {
  const FloatTag df;
  const FloatVec s = hn::Set(df, shift);
  Sum4 sum1, sum2;
  const auto take = [&](FloatVec v, int64_t i, FloatVec* s1, FloatVec* s2) HWY_ATTR {
    v = hn::Sub(v, s);
    hn::StoreU(v, df, keep + i);
    *s1 = hn::Add(*s1, v);
    *s2 = hn::MulAdd(v, v, *s2);
  };
  int64_t i = 0;
  FloatVec a, b, c, d;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    row.Pair(i, &a, &b);
    row.Pair(i + 2 * kLanes, &c, &d);
    take(a, i, &sum1.a, &sum2.a);
    take(b, i + kLanes, &sum1.b, &sum2.b);
    take(c, i + 2 * kLanes, &sum1.c, &sum2.c);
    take(d, i + 3 * kLanes, &sum1.d, &sum2.d);
  }
  for (; i < n; i += kLanes) {
    const int64_t m = n - i < kLanes ? n - i : kLanes;
    a = hn::IfThenElseZero(hn::FirstN(df, static_cast<size_t>(m)), hn::Sub(row.Tail(i, m), s));
    StoreN(a, keep + i, m);
    sum1.a = hn::Add(sum1.a, a);
    sum2.a = hn::MulAdd(a, a, sum2.a);
  }
  *first = sum1.Total();
  *second = sum2.Total();
}

// Sums of x - shift and of its square.
template <class S>
void Moments(const S* x, int64_t n, float shift, float* first, float* second) {
  const FloatTag df;
  const FloatVec s = hn::Set(df, shift);
  Sum4 sum1, sum2;
  const auto add = [](FloatVec v, FloatVec* s1, FloatVec* s2) HWY_ATTR {
    *s1 = hn::Add(*s1, v);
    *s2 = hn::MulAdd(v, v, *s2);
  };
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    add(hn::Sub(Load(x + i), s), &sum1.a, &sum2.a);
    add(hn::Sub(Load(x + i + kLanes), s), &sum1.b, &sum2.b);
    add(hn::Sub(Load(x + i + 2 * kLanes), s), &sum1.c, &sum2.c);
    add(hn::Sub(Load(x + i + 3 * kLanes), s), &sum1.d, &sum2.d);
  }
  for (; i < n; i += kLanes) {
    const int64_t m = n - i < kLanes ? n - i : kLanes;
    const FloatVec v = hn::Sub(LoadN(x + i, m), s);
    add(hn::IfThenElseZero(hn::FirstN(df, static_cast<size_t>(m)), v), &sum1.a, &sum2.a);
  }
  *first = sum1.Total();
  *second = sum2.Total();
}

// weight or bias, cols [begin, begin + n), as floats: in place when they are, else in `buffer`.
const float* Widened(const void* data, DType dtype, float absent, int64_t begin, int64_t n,
                     float* buffer) {
  const auto identity = [](FloatVec v) HWY_ATTR { return v; };
  if (data == nullptr) {
    for (int64_t i = 0; i < n; ++i) buffer[i] = absent;
    return buffer;
  }
  switch (dtype) {
    case DType::kFloat32:
      return static_cast<const float*>(data) + begin;
    case DType::kFloat16:
      MapRow<false>(identity, n, buffer, static_cast<const Half*>(data) + begin);
      return buffer;
    default:
      MapRow<false>(identity, n, buffer, static_cast<const BFloat16*>(data) + begin);
      return buffer;
  }
}

struct Params {
  alignas(64) float weight_buffer[kKeep];
  alignas(64) float bias_buffer[kKeep];
  const float* weight;
  const float* bias;

  void Load(const NormJob& job, int64_t begin, int64_t n) {
    weight = Widened(job.weight, job.weight_dtype, 1.0f, begin, n, weight_buffer);
    if (job.subtract_mean) {
      bias = Widened(job.bias, job.bias_dtype, 0.0f, begin, n, bias_buffer);
    }
  }
};

struct Statistics {
  float shift;   // subtracted first: the mean as summed in float; 0: nothing is
  float rstd;    // 1 / sqrt(variance + eps)
  float offset;  // what is left of the mean, times -rstd
};

template <bool kMean, bool kStream, bool kShift = kMean, class S, class T>
void Normalize(const S* source, int64_t n, const Statistics& s, const float* weight,
               const float* bias, T* y) {
  const FloatTag df;
  const FloatVec rstd = hn::Set(df, s.rstd);
  if constexpr (kMean) {
    const FloatVec shift = hn::Set(df, s.shift);
    const FloatVec offset = hn::Set(df, s.offset);
    MapRow<kStream>(
        [=](FloatVec x, FloatVec w, FloatVec b)
            HWY_ATTR { return hn::MulAdd(hn::MulAdd(hn::Sub(x, shift), rstd, offset), w, b); },
        n, y, source, weight, bias);
  } else {
    MapRow<kStream>([=](FloatVec x, FloatVec w) HWY_ATTR { return hn::Mul(hn::Mul(x, rstd), w); },
                    n, y, source, weight);
  }
}

template <bool kMean, class S>
Statistics Finish(const S* source, int64_t n, float first, float eps) {
  Statistics s{};
  const float count = static_cast<float>(n);
  if constexpr (kMean) {
    // The second pass also measures by how much the float mean is off, so neither a large mean nor
    // a long row costs accuracy.
    s.shift = first / count;
    float sum, squares;
    Moments(source, n, s.shift, &sum, &squares);
    const float rest = sum / count;
    const float variance = squares / count - rest * rest;
    s.rstd = 1.0f / std::sqrt((variance < 0.0f ? 0.0f : variance) + eps);  // NaN stays
    s.offset = -rest * s.rstd;
  } else {
    s.rstd = 1.0f / std::sqrt(first / count + eps);
  }
  return s;
}

// Layer norm of one narrow row that fits `keep`, with its statistics from a single pass around the
// row's first element. False, with nothing written but the sum, when that lies too far from the
// mean for the variance to be exact (more than 4 standard deviations), or something is not finite.
template <bool kStream, class T, bool kAdd>
bool NormalizeAroundFirst(const Source<T, kAdd>& row, int64_t n, float eps, const Params& params,
                          float* keep, T* y) {
  FloatVec v = LoadN(row.x, 1);
  if constexpr (kAdd) v = hn::Add(v, LoadN(row.residual, 1));
  float first, second;
  ShiftedPass(row, n, hn::GetLane(v), keep, &first, &second);
  const float count = static_cast<float>(n);
  const float mean = first / count;
  const float variance = second / count - mean * mean;
  if (!(mean * mean <= 16.0f * variance)) return false;
  Statistics s{};
  s.rstd = 1.0f / std::sqrt(variance + eps);
  s.offset = -mean * s.rstd;
  Normalize<true, kStream, false>(keep, n, s, params.weight, params.bias, y);
  return true;
}

template <class T, bool kMean, bool kAdd, bool kStream>
void Rows(const NormJob& job, int64_t begin, int64_t end) {
  constexpr bool kFloat = std::is_same_v<T, float>;
  const int64_t n = job.cols;
  alignas(64) float keep[kFloat ? 1 : kKeep];
  Params params;
  const bool fits = n <= kKeep;
  if (fits) params.Load(job, 0, n);
  for (int64_t row = begin; row < end; ++row) {
    int64_t at[NormJob::kNumTensors];
    RowOffsets(job.plan, row, at);
    T* y = static_cast<T*>(job.y) + at[NormJob::kY];
    Source<T, kAdd> source{static_cast<const T*>(job.x) + at[NormJob::kX], nullptr, nullptr};
    const T* stored = source.x;  // the row to normalize, in its own format
    if constexpr (kAdd) {
      source.residual = static_cast<const T*>(job.residual) + at[NormJob::kResidual];
      source.sum = static_cast<T*>(job.sum) + at[NormJob::kSum];
      stored = source.sum;
    }
    if (!kFloat && fits) {
      float first;
      if constexpr (kMean && !kFloat) {
        if (NormalizeAroundFirst<kStream>(source, n, job.eps, params, keep, y)) continue;
        first = FirstPass<kMean, true>(Source<T, false>{stored, nullptr, nullptr}, n, keep);
      } else {
        first = FirstPass<kMean, !kFloat>(source, n, keep);
      }
      const Statistics s = Finish<kMean>(keep, n, first, job.eps);
      Normalize<kMean, kStream>(keep, n, s, params.weight, params.bias, y);
      continue;
    }
    const float first = FirstPass<kMean, false>(source, n, nullptr);
    const Statistics s = Finish<kMean>(stored, n, first, job.eps);
    if (fits) {
      Normalize<kMean, kStream>(stored, n, s, params.weight, params.bias, y);
      continue;
    }
    for (int64_t c = 0; c < n; c += kKeep) {
      const int64_t m = n - c < kKeep ? n - c : kKeep;
      params.Load(job, c, m);
      Normalize<kMean, kStream>(stored + c, m, s, params.weight, params.bias, y + c);
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

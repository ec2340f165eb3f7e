// Means, variances and parameters of normalized rows, portable SIMD.
//
// A row comes from memory once and stays in the first-level cache, in its own format, for the
// second pass: widening it again costs less than storing it wide. Narrow rows usually take their
// variance from the same pass as their mean; float rows take a pass for each.
//
// Included by files compiled once per instruction set; see simd_io.h.
#ifndef KPT_KERNELS_BASE_SIMD_NORM_H_
#define KPT_KERNELS_BASE_SIMD_NORM_H_

#include <cmath>
#include <type_traits>

#include "kernels/base/simd_io.h"
#include "kernels/base/simd_widen.h"

HWY_BEFORE_NAMESPACE();
namespace kpt::cpu::KPT_SIMD_NS {
namespace {

// Longest row whose parameters are widened once a call; longer ones widen them piece by piece.
constexpr int64_t kPiece = 4096;

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
    LoadBoth(x + i, a, b);
    if constexpr (kAdd) {
      FloatVec c, d;
      LoadBoth(residual + i, &c, &d);
      *a = hn::Add(*a, c);
      *b = hn::Add(*b, d);
      StoreBoth<false>(*a, *b, sum + i);
      if constexpr (!std::is_same_v<T, float>) LoadBoth(sum + i, a, b);  // as stored, so rounded
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

// First pass: the row's sum (kMean) or sum of squares.
template <bool kMean, class T, bool kAdd>
float FirstPass(const Source<T, kAdd>& row, int64_t n) {
  Sum4 sum;
  const auto add = [](FloatVec v, FloatVec* s)
                       HWY_ATTR { *s = kMean ? hn::Add(*s, v) : hn::MulAdd(v, v, *s); };
  int64_t i = 0;
  FloatVec a, b, c, d;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    row.Pair(i, &a, &b);
    row.Pair(i + 2 * kLanes, &c, &d);
    add(a, &sum.a);
    add(b, &sum.b);
    add(c, &sum.c);
    add(d, &sum.d);
  }
  for (; i < n; i += kLanes) {
    const int64_t m = n - i < kLanes ? n - i : kLanes;
    add(row.Tail(i, m), &sum.a);  // the lanes past the end are zero
  }
  return sum.Total();
}

// Sums of x - shift and of its square.
template <class T, bool kAdd>
void Moments(const Source<T, kAdd>& row, int64_t n, float shift, float* first, float* second) {
  const FloatTag df;
  const FloatVec s = hn::Set(df, shift);
  Sum4 sum1, sum2;
  const auto add = [](FloatVec v, FloatVec* s1, FloatVec* s2) HWY_ATTR {
    *s1 = hn::Add(*s1, v);
    *s2 = hn::MulAdd(v, v, *s2);
  };
  int64_t i = 0;
  FloatVec a, b, c, d;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    row.Pair(i, &a, &b);
    row.Pair(i + 2 * kLanes, &c, &d);
    add(hn::Sub(a, s), &sum1.a, &sum2.a);
    add(hn::Sub(b, s), &sum1.b, &sum2.b);
    add(hn::Sub(c, s), &sum1.c, &sum2.c);
    add(hn::Sub(d, s), &sum1.d, &sum2.d);
  }
  for (; i < n; i += kLanes) {
    const int64_t m = n - i < kLanes ? n - i : kLanes;
    const FloatVec v = hn::Sub(row.Tail(i, m), s);
    add(hn::IfThenElseZero(hn::FirstN(df, static_cast<size_t>(m)), v), &sum1.a, &sum2.a);
  }
  *first = sum1.Total();
  *second = sum2.Total();
}

struct Params {
  alignas(64) float weight_buffer[kPiece];
  alignas(64) float bias_buffer[kPiece];
  const float* weight;
  const float* bias;

  // Of a job with weight, bias and their dtypes, in the order that LoadBoth gives rows of T.
  template <class T, class Job>
  void Load(const Job& job, int64_t begin, int64_t n) {
    weight = Widened<T>(job.weight, job.weight_dtype, 1.0f, begin, n, weight_buffer);
    if (job.subtract_mean) {
      bias = Widened<T>(job.bias, job.bias_dtype, 0.0f, begin, n, bias_buffer);
    }
  }
};

struct Statistics {
  float shift;   // subtracted first: a value near the mean
  float rstd;    // 1 / sqrt(variance + eps)
  float offset;  // what is left of the mean, times -rstd
};

// 1 / sqrt(variance + eps) and the rest of the mean, from sums around `shift`.
Statistics FromMoments(float shift, float sum, float squares, int64_t n, float eps) {
  const float rest = sum / static_cast<float>(n);
  const float variance = squares / static_cast<float>(n) - rest * rest;
  Statistics s{};
  s.shift = shift;
  s.rstd = 1.0f / std::sqrt((variance < 0.0f ? 0.0f : variance) + eps);  // NaN stays
  s.offset = -rest * s.rstd;
  return s;
}

// A second pass, around the mean as summed in float: it also measures by how much that is off, so
// neither a large mean nor a long row costs accuracy.
template <class T>
Statistics AroundMean(float total, const T* stored, int64_t n, float eps) {
  const float shift = total / static_cast<float>(n);
  float sum, squares;
  Moments(Source<T, false>{stored, nullptr, nullptr}, n, shift, &sum, &squares);
  return FromMoments(shift, sum, squares, n, eps);
}

// One pass around the row's first element. False when that lies so far from the mean that the
// variance would lose digits (more than 4 standard deviations), or something is not finite.
template <class T, bool kAdd>
bool StatisticsAroundFirst(const Source<T, kAdd>& row, int64_t n, float eps, Statistics* s) {
  FloatVec v = LoadN(row.x, 1);
  if constexpr (kAdd) {
    // Rounded as the elements are: low bits that all differences share would be rounded away in the
    // same direction at every addition.
    T rounded;
    StoreN(hn::Add(v, LoadN(row.residual, 1)), &rounded, 1);
    v = LoadN(&rounded, 1);
  }
  const float shift = hn::GetLane(v);
  float sum, squares;
  Moments(row, n, shift, &sum, &squares);
  *s = FromMoments(shift, sum, squares, n, eps);
  const float count = static_cast<float>(n);
  const float rest = sum / count;
  return rest * rest <= 16.0f * (squares / count - rest * rest);
}

template <bool kMean, class T, bool kAdd>
Statistics StatisticsOf(const Source<T, kAdd>& source, const T* stored, int64_t n, float eps) {
  Statistics s{};
  if constexpr (!kMean) {
    s.rstd = 1.0f / std::sqrt(FirstPass<false>(source, n) / static_cast<float>(n) + eps);
  } else if constexpr (std::is_same_v<T, float>) {
    s = AroundMean(FirstPass<true>(source, n), stored, n, eps);
  } else if (!StatisticsAroundFirst(source, n, eps, &s)) {
    s = AroundMean(FirstPass<true>(Source<T, false>{stored, nullptr, nullptr}, n), stored, n, eps);
  }
  return s;
}

}  // namespace
}  // namespace kpt::cpu::KPT_SIMD_NS
HWY_AFTER_NAMESPACE();

#endif  // KPT_KERNELS_BASE_SIMD_NORM_H_

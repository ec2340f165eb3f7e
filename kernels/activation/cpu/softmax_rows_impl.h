// SoftmaxRows and SoftmaxBackwardRows, for the instruction set that the including file is compiled
// for.
//
// Softmax takes three passes over a row that stays in the first-level cache as floats: the maximum,
// the exponentials with their sum, the product with the sum's inverse.
#ifndef KPT_KERNELS_ACTIVATION_CPU_SOFTMAX_ROWS_IMPL_H_
#define KPT_KERNELS_ACTIVATION_CPU_SOFTMAX_ROWS_IMPL_H_

#include <limits>
#include <type_traits>

#include "kernels/activation/cpu/softmax_rows.h"
#include "kernels/base/simd_io.h"
#include "kernels/base/simd_math.h"

HWY_BEFORE_NAMESPACE();
namespace kpt::cpu::KPT_SIMD_NS {
namespace {

// Longest row (in floats) whose exponentials are kept; longer rows compute them twice.
constexpr int64_t kKeep = 8192;

// The largest of x, or of -x (kNegative), which is then also what `keep` gets. NaN may be lost
// here: the sum of exponentials finds it again.
template <bool kNegative, bool kWiden, class T>
float Largest(const T* x, int64_t n, float* keep) {
  const FloatTag df;
  const FloatVec lowest = Set(-std::numeric_limits<float>::infinity());
  FloatVec m0 = lowest, m1 = lowest, m2 = lowest, m3 = lowest;
  const auto load = [&](int64_t i) HWY_ATTR {
    FloatVec v = Load(x + i);
    if constexpr (kNegative) v = hn::Neg(v);
    if constexpr (kWiden) hn::StoreU(v, df, keep + i);
    return v;
  };
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    m0 = hn::Max(m0, load(i));
    m1 = hn::Max(m1, load(i + kLanes));
    m2 = hn::Max(m2, load(i + 2 * kLanes));
    m3 = hn::Max(m3, load(i + 3 * kLanes));
  }
  for (; i < n; i += kLanes) {
    const int64_t m = n - i < kLanes ? n - i : kLanes;
    FloatVec v = LoadN(x + i, m);
    if constexpr (kNegative) v = hn::Neg(v);
    if constexpr (kWiden) StoreN(v, keep + i, m);
    m0 = hn::Max(m0, hn::IfThenElse(hn::FirstN(df, static_cast<size_t>(m)), v, lowest));
  }
  return hn::ReduceMax(df, hn::Max(hn::Max(m0, m1), hn::Max(m2, m3)));
}

// exp(scale * (x - largest)).
template <bool kNegative, bool kFast>
struct Exponential {
  FloatVec factor, largest;

  Exponential(float scale, float most) {
    if constexpr (kFast) {
      // One multiply-subtract in base 2. Its constant error is that of the subtrahend, the same
      // for the whole row, and cancels in the quotient.
      const float c = scale * kLog2E;
      factor = Set(c);
      largest = Set(most * c);
    } else {
      factor = Set(scale);
      largest = Set(most);
    }
  }
  HWY_INLINE FloatVec operator()(FloatVec x) const {
    if constexpr (kFast) return Exp2BelowMax<true>(hn::MulSub(x, factor, largest));
    return ExpBelowMax<false>(hn::Mul(hn::Sub(x, largest), factor));
  }
};

// Sum of e(x); with kKeepIt also writes them. Prefetches as much from `next` when given.
template <bool kKeepIt, bool kNegative, class S, class E, class T>
float SumOf(const S* x, int64_t n, const E& e, float* keep, const T* next) {
  const FloatTag df;
  FloatVec s0 = hn::Zero(df), s1 = s0, s2 = s0, s3 = s0;
  const auto take = [&](int64_t i) HWY_ATTR {
    FloatVec v = Load(x + i);
    if constexpr (kNegative) v = hn::Neg(v);
    v = e(v);
    if constexpr (kKeepIt) hn::StoreU(v, df, keep + i);
    return v;
  };
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    if (next != nullptr) PrefetchRow(next + i, 4 * kLanes);
    s0 = hn::Add(s0, take(i));
    s1 = hn::Add(s1, take(i + kLanes));
    s2 = hn::Add(s2, take(i + 2 * kLanes));
    s3 = hn::Add(s3, take(i + 3 * kLanes));
  }
  for (; i < n; i += kLanes) {
    const int64_t m = n - i < kLanes ? n - i : kLanes;
    FloatVec v = LoadN(x + i, m);
    if constexpr (kNegative) v = hn::Neg(v);
    v = e(v);
    if constexpr (kKeepIt) StoreN(v, keep + i, m);
    s0 = hn::Add(s0, hn::IfThenElseZero(hn::FirstN(df, static_cast<size_t>(m)), v));
  }
  return hn::ReduceSum(df, hn::Add(hn::Add(s0, s1), hn::Add(s2, s3)));
}

template <class T, bool kNegative, bool kStream>
void Rows(const SoftmaxJob& job, int64_t begin, int64_t end) {
  constexpr bool kFloat = std::is_same_v<T, float>;
  constexpr bool kFast = std::is_same_v<T, BFloat16>;
  const int64_t n = job.cols;
  // -x and -scale in place of x and a negative scale: the largest product is where x is largest.
  const float scale = kNegative ? -job.scale : job.scale;
  alignas(64) float keep[kKeep];
  for (int64_t row = begin; row < end; ++row) {
    int64_t at[SoftmaxJob::kNumTensors];
    RowOffsets(job.plan, row, at);
    T* out = static_cast<T*>(job.out) + at[SoftmaxJob::kOut];
    const T* x = static_cast<const T*>(job.x) + at[SoftmaxJob::kX];
    const T* next = nullptr;
    if (kStream && row + 1 < end) {
      RowOffsets(job.plan, row + 1, at);
      next = static_cast<const T*>(job.x) + at[SoftmaxJob::kX];
    }
    if (n <= kKeep) {
      const float most = Largest<kNegative, !kFloat>(x, n, keep);
      const Exponential<kNegative, kFast> e(scale, most);
      float sum;
      if constexpr (kFloat) {
        sum = SumOf<true, kNegative>(x, n, e, keep, next);
      } else {
        sum = SumOf<true, false>(keep, n, e, keep, next);
      }
      const FloatVec inverse = Set(1.0f / sum);
      MapRow<kStream>([=](FloatVec v) HWY_ATTR { return hn::Mul(v, inverse); }, n, out, keep);
      continue;
    }
    const float most = Largest<kNegative, false>(x, n, nullptr);
    const Exponential<kNegative, kFast> e(scale, most);
    const FloatVec inverse = Set(1.0f / SumOf<false, kNegative>(x, n, e, nullptr, next));
    MapRow<kStream>(
        [=](FloatVec v) HWY_ATTR {
          if constexpr (kNegative) v = hn::Neg(v);
          return hn::Mul(e(v), inverse);
        },
        n, out, x);
  }
}

template <class T>
void RowsOf(const SoftmaxJob& job, int64_t begin, int64_t end) {
  if (job.scale < 0.0f) {
    Rows<T, true, false>(job, begin, end);
  } else if (job.stream) {
    Rows<T, false, true>(job, begin, end);
  } else {
    Rows<T, false, false>(job, begin, end);
  }
}

// Sum of a b, in the order of LoadBoth.
template <class T>
float Dot(const T* a, const T* b, int64_t n) {
  const FloatTag df;
  FloatVec s0 = hn::Zero(df), s1 = s0, s2 = s0, s3 = s0;
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    s0 = hn::MulAdd(LoadOne<0>(a + i), LoadOne<0>(b + i), s0);
    s1 = hn::MulAdd(LoadOne<1>(a + i), LoadOne<1>(b + i), s1);
    s2 = hn::MulAdd(LoadOne<0>(a + i + 2 * kLanes), LoadOne<0>(b + i + 2 * kLanes), s2);
    s3 = hn::MulAdd(LoadOne<1>(a + i + 2 * kLanes), LoadOne<1>(b + i + 2 * kLanes), s3);
  }
  for (; i < n; i += kLanes) {
    const int64_t m = n - i < kLanes ? n - i : kLanes;
    s0 = hn::MulAdd(LoadN(a + i, m), LoadN(b + i, m), s0);
  }
  return hn::ReduceSum(df, hn::Add(hn::Add(s0, s1), hn::Add(s2, s3)));
}

// Two passes: the sum of grad_out times out, which leaves both in the first-level cache, and
// grad_x.
template <class T, bool kStream>
void BackwardRows(const SoftmaxBackwardJob& job, int64_t begin, int64_t end) {
  const int64_t n = job.cols;
  const FloatVec scale = Set(job.scale);
  for (int64_t row = begin; row < end; ++row) {
    int64_t at[SoftmaxBackwardJob::kNumTensors];
    RowOffsets(job.plan, row, at);
    T* grad_x = static_cast<T*>(job.grad_x) + at[SoftmaxBackwardJob::kGradX];
    const T* out = static_cast<const T*>(job.out) + at[SoftmaxBackwardJob::kOut];
    const T* grad = static_cast<const T*>(job.grad_out) + at[SoftmaxBackwardJob::kGradOut];
    const FloatVec sum = Set(Dot(out, grad, n));
    const auto f = [=](FloatVec y, FloatVec g)
                       HWY_ATTR { return hn::Mul(hn::Mul(scale, y), hn::Sub(g, sum)); };
    MapRow<kStream>(f, n, grad_x, out, grad);
  }
}

template <class T>
void BackwardRowsOf(const SoftmaxBackwardJob& job, int64_t begin, int64_t end) {
  if (job.stream) {
    BackwardRows<T, true>(job, begin, end);
  } else {
    BackwardRows<T, false>(job, begin, end);
  }
}

}  // namespace

void SoftmaxBackwardRows(const SoftmaxBackwardJob& job, int64_t begin, int64_t end) {
  switch (job.dtype) {
    case DType::kFloat32:
      return BackwardRowsOf<float>(job, begin, end);
    case DType::kFloat16:
      return BackwardRowsOf<Half>(job, begin, end);
    default:
      return BackwardRowsOf<BFloat16>(job, begin, end);
  }
}

void SoftmaxRows(const SoftmaxJob& job, int64_t begin, int64_t end) {
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

#endif  // KPT_KERNELS_ACTIVATION_CPU_SOFTMAX_ROWS_IMPL_H_

// Elementary functions and activations on float vectors, portable SIMD.
//
// Each function has two precisions. kFast is for results that are then rounded to bfloat16: about
// 2^-12 relative, a tenth of what the rounding costs. The other is for float and half. The bounds
// below are measured by tests/kernels/simd/simd_math_test.cc. NaN gives NaN everywhere; infinities
// give what PyTorch's formulas give in double precision.
//
//   function            precise            fast
//   Exp2                2 ulp              1.2e-4 relative
//   Sigmoid             3 ulp              2.5e-4 relative
//   Tanh                4 ulp              3e-4 relative
//   kGelu               2e-7 absolute      1.5e-4 of x for x > 0, 7e-5 absolute for x < 0
//   kGeluTanh, kSilu    4 ulp + 2e-7       4e-4 relative
//
// Included by files compiled once per instruction set; see simd_io.h.
#ifndef KPT_KERNELS_BASE_SIMD_MATH_H_
#define KPT_KERNELS_BASE_SIMD_MATH_H_

#include <type_traits>

#include "kernels/base/activation_kind.h"
#include "kernels/base/simd_io.h"
#include "kernels/base/simd_math_constants.h"

HWY_BEFORE_NAMESPACE();
namespace kpt::cpu::KPT_SIMD_NS {

constexpr float kLog2E = 1.44269504088896341f;

KPT_SIMD_INLINE FloatVec Set(float x) { return hn::Set(FloatTag(), x); }

// c[0] + c[1] x + ... by Horner's rule.
template <int kTerms>
KPT_SIMD_INLINE FloatVec Polynomial(FloatVec x, const float (&c)[kTerms]) {
  FloatVec p = Set(c[kTerms - 1]);
  HWY_UNROLL(16)
  for (int i = kTerms - 2; i >= 0; --i) p = hn::MulAdd(p, x, Set(c[i]));
  return p;
}

// p * 2^n for whole n: 0 where that is far below the smallest normal number, NaN where n is NaN.
#if HWY_TARGET <= HWY_AVX3
KPT_SIMD_INLINE FloatVec ScaleBy2ToThe(FloatVec p, FloatVec n) {
  return FloatVec{_mm512_scalef_ps(p.raw, n.raw)};
}
#endif

// 2^t for t <= 127; below t = -126 as good as 0, and exactly 0 from t = -150 on.
template <bool kFast>
KPT_SIMD_INLINE FloatVec Exp2BelowMax(FloatVec t) {
#if HWY_TARGET <= HWY_AVX3
  const FloatVec f{_mm512_reduce_ps(t.raw, 0)};  // t - round(t); 0 for infinities
  const FloatVec n = hn::Sub(t, f);
  if constexpr (kFast) return ScaleBy2ToThe(Polynomial(f, kExp2Fast), n);
  return ScaleBy2ToThe(Polynomial(f, kExp2), n);
#else
  // With 1.5 * 2^23 + 127 added, the low bits of the sum are the exponent field of 2^n. The scaling
  // is a product, not an addition of bits, so that any NaN stays one.
  const FloatVec magic = Set(12582912.0f + 127.0f);
  t = hn::Max(Set(-127.0f), t);  // in this order NaN passes
  const FloatVec z = hn::Add(t, magic);
  const FloatVec f = hn::Sub(t, hn::Sub(z, magic));
  const hn::RebindToUnsigned<FloatTag> du;
  const FloatVec scale = hn::BitCast(FloatTag(), hn::ShiftLeft<23>(hn::BitCast(du, z)));
  if constexpr (kFast) return hn::Mul(Polynomial(f, kExp2Fast), scale);
  return hn::Mul(Polynomial(f, kExp2), scale);
#endif
}

// 2^t, saturating at 2^127.
template <bool kFast>
KPT_SIMD_INLINE FloatVec Exp2(FloatVec t) {
  return Exp2BelowMax<kFast>(hn::Min(Set(127.0f), t));
}

// e^v for v <= 88; below v = -87 as good as 0, and exactly 0 from v = -104 on. The precise one
// reduces v by a two-part ln(2), so that small results are as exact as large ones.
template <bool kFast>
KPT_SIMD_INLINE FloatVec ExpBelowMax(FloatVec v) {
  if constexpr (kFast) {
    return Exp2BelowMax<true>(hn::Mul(v, Set(kLog2E)));
  } else {
    const FloatVec magic = Set(12582912.0f + 127.0f);  // see Exp2BelowMax
#if HWY_TARGET <= HWY_AVX3
    v = hn::Max(Set(-200.0f), v);
#else
    v = hn::Max(Set(-88.029694f), v);  // -127 ln(2), rounded down
#endif
    const FloatVec z = hn::MulAdd(v, Set(kLog2E), magic);
    const FloatVec n = hn::Sub(z, magic);
    FloatVec r = hn::NegMulAdd(n, Set(0.693145752f), v);  // 15 bits: n times it is exact
    r = hn::NegMulAdd(n, Set(1.42860677e-6f), r);
#if HWY_TARGET <= HWY_AVX3
    return ScaleBy2ToThe(Polynomial(r, kExp), n);
#else
    const hn::RebindToUnsigned<FloatTag> du;
    const FloatVec scale = hn::BitCast(FloatTag(), hn::ShiftLeft<23>(hn::BitCast(du, z)));
    return hn::Mul(Polynomial(r, kExp), scale);
#endif
  }
}

// 1 / d for finite d, normal results.
template <bool kFast>
KPT_SIMD_INLINE FloatVec Reciprocal(FloatVec d) {
#if HWY_TARGET <= HWY_AVX3
  const FloatVec r = hn::ApproximateReciprocal(d);  // 2^-14
  if constexpr (kFast) return r;
  return hn::MulAdd(r, hn::NegMulAdd(d, r, Set(1.0f)), r);
#else
  return hn::Div(Set(1.0f), d);
#endif
}

// 1 / (1 + 2^t), exactly 0 for t >= 129 (so that an infinite factor gives NaN, as in PyTorch).
template <bool kFast>
KPT_SIMD_INLINE FloatVec Logistic2(FloatVec t) {
#if HWY_TARGET <= HWY_AVX3
  // Infinity, where 2^t overflows, has the approximate reciprocal 0.
  if constexpr (kFast) {
    return hn::ApproximateReciprocal(hn::Add(Set(1.0f), Exp2BelowMax<true>(t)));
  }
#endif
  const FloatVec most = Set(126.0f);
  const FloatVec e = Exp2BelowMax<kFast>(hn::Min(most, t));
  const FloatVec r = Reciprocal<kFast>(hn::Add(Set(1.0f), e));
  return hn::IfThenZeroElse(hn::Ge(t, most), r);
}

// 1 / (1 + e^v), exactly 0 for v >= 90.
template <bool kFast>
KPT_SIMD_INLINE FloatVec Logistic(FloatVec v) {
  if constexpr (kFast) {
    return Logistic2<true>(hn::Mul(v, Set(kLog2E)));
  } else {
    const FloatVec most = Set(87.0f);
    const FloatVec e = ExpBelowMax<false>(hn::Min(most, v));
    const FloatVec r = Reciprocal<false>(hn::Add(Set(1.0f), e));
    return hn::IfThenZeroElse(hn::Ge(v, most), r);
  }
}

template <bool kFast>
KPT_SIMD_INLINE FloatVec Sigmoid(FloatVec x) {
  return Logistic<kFast>(hn::Neg(x));
}

// s = 1 / (1 + e^v) and s (1 - s), without the cancellation in 1 - s.
template <bool kFast>
KPT_SIMD_INLINE void LogisticSlope(FloatVec v, FloatVec* s, FloatVec* slope) {
  const FloatVec most = Set(87.0f);
  const FloatVec e = ExpBelowMax<kFast>(hn::Min(most, v));
  const FloatVec r = Reciprocal<kFast>(hn::Add(Set(1.0f), e));
  *s = hn::IfThenZeroElse(hn::Ge(v, most), r);
  *slope = hn::Mul(*s, hn::Mul(e, r));
}

template <bool kFast>
KPT_SIMD_INLINE FloatVec Tanh(FloatVec x) {
  const FloatVec u = hn::Mul(x, x);
  FloatVec p;
  if constexpr (kFast) {
    p = Polynomial(u, kTanhFast);
  } else {
    p = Polynomial(u, kTanh);
  }
  const FloatVec small = hn::MulAdd(hn::Mul(x, u), p, x);
  const FloatVec a = hn::Abs(x);
  // 1 - 2 / (1 + e^(2 |x|)); 2^126 already gives 1.
  const FloatVec e = Exp2BelowMax<kFast>(hn::Min(Set(126.0f), hn::Mul(a, Set(2.0f * kLog2E))));
  const FloatVec r = Reciprocal<kFast>(hn::Add(Set(1.0f), e));
  const FloatVec large = hn::CopySign(hn::NegMulAdd(Set(2.0f), r, Set(1.0f)), x);
  return hn::IfThenElse(hn::Lt(a, Set(0.625f)), small, large);
}

#if HWY_TARGET <= HWY_AVX3
// One of 32 table entries per lane, by the low five bits of the lane.
KPT_SIMD_INLINE FloatVec Lookup32(const float (&table)[32], FloatVec index) {
  return FloatVec{_mm512_permutex2var_ps(_mm512_loadu_ps(table), _mm512_castps_si512(index.raw),
                                         _mm512_loadu_ps(table + 16))};
}

// Phi(x) from a polynomial per interval: with 32-entry register tables this takes half the
// operations of the logistic form.
template <int kTerms>
KPT_SIMD_INLINE FloatVec NormalCdfByTable(FloatVec x, const float (&table)[kTerms][32],
                                          float width) {
  const float inverse = 1.0f / width;
  // |x| limited, sign kept; just inside the last interval, where the table is exactly 0 or 1.
  const FloatVec c{_mm512_range_ps(x.raw, _mm512_set1_ps(15.49f * width), 0b0010)};
  const FloatVec magic = Set(12582912.0f);
  const FloatVec z = hn::MulAdd(c, Set(inverse), magic);
  const FloatVec f = hn::MulSub(c, Set(inverse), hn::Sub(z, magic));
  FloatVec p = Lookup32(table[kTerms - 1], z);
  HWY_UNROLL(8)
  for (int i = kTerms - 2; i >= 0; --i) p = hn::MulAdd(p, f, Lookup32(table[i], z));
  return p;
}
#endif

// The normal distribution function. NaN may give anything: callers multiply by x.
template <bool kFast>
KPT_SIMD_INLINE FloatVec NormalCdf(FloatVec x) {
#if HWY_TARGET <= HWY_AVX3
  if constexpr (kFast) return NormalCdfByTable(x, kGeluTableFast, kGeluTableFastWidth);
  return NormalCdfByTable(x, kGeluTable, kGeluTableWidth);
#else
  // The log odds of Phi are x times a smooth even function.
  const float limit = kFast ? kGeluOddsFastLimit : kGeluOddsLimit;
  const FloatVec u = hn::Min(Set(limit * limit), hn::Mul(x, x));
  FloatVec q;
  if constexpr (kFast) {
    q = Polynomial(u, kGeluOddsFast);
  } else {
    q = Polynomial(u, kGeluOdds);
  }
  return Logistic2<kFast>(hn::Mul(x, q));
#endif
}

// The argument of the logistic function in gelu_tanh:
// (1 + tanh(v)) / 2 = 1 / (1 + e^(-2 v)) with v = sqrt(2 / pi) (x + 0.044715 x^3).
KPT_SIMD_INLINE FloatVec GeluTanhExponent(FloatVec x) {
  constexpr float kScale = -2.0f * 0.79788456080286536f;
  const FloatVec u = hn::Mul(x, x);
  return hn::Mul(x, hn::MulAdd(u, Set(kScale * 0.044715f), Set(kScale)));
}

constexpr float kQuickGeluScale = 1.702f;

// Formulas: kernels/activation/act.h.
template <ActivationKind kKind, bool kFast>
KPT_SIMD_INLINE FloatVec Activate(FloatVec x) {
  if constexpr (kKind == ActivationKind::kRelu) {
    return hn::Max(Set(0.0f), x);
  } else if constexpr (kKind == ActivationKind::kGelu) {
    return hn::Mul(x, NormalCdf<kFast>(x));
  } else if constexpr (kKind == ActivationKind::kGeluTanh) {
    return hn::Mul(x, Logistic<kFast>(GeluTanhExponent(x)));
  } else if constexpr (kKind == ActivationKind::kSilu) {
    return hn::Mul(x, Sigmoid<kFast>(x));
  } else if constexpr (kKind == ActivationKind::kSigmoid) {
    return Sigmoid<kFast>(x);
  } else if constexpr (kKind == ActivationKind::kTanh) {
    return Tanh<kFast>(x);
  } else if constexpr (kKind == ActivationKind::kQuickGelu) {
    return hn::Mul(x, Logistic<kFast>(hn::Mul(x, Set(-kQuickGeluScale))));
  } else {
    static_assert(kKind == ActivationKind::kNone, "a gated kind is not elementwise");
    return x;
  }
}

// Activate, and its derivative of all but relu, from one exponential.
template <ActivationKind kKind, bool kFast>
KPT_SIMD_INLINE void ActivateWithGrad(FloatVec x, FloatVec* value, FloatVec* grad) {
  const FloatVec one = Set(1.0f);
  // x s with s = 1 / (1 + e^v), and s - x s (1 - s) v'(x).
  const auto weighted = [&](FloatVec v, FloatVec minus_dv) HWY_ATTR {
    FloatVec s, slope;
    LogisticSlope<kFast>(v, &s, &slope);
    *value = hn::Mul(x, s);
    *grad = hn::MulAdd(hn::Mul(x, minus_dv), slope, s);
  };
  if constexpr (kKind == ActivationKind::kRelu) {
    *value = *grad = Activate<kKind, kFast>(x);
  } else if constexpr (kKind == ActivationKind::kGelu) {
    // Phi(x) + x phi(x). NaN comes through the product, whatever NormalCdf makes of it.
    constexpr float kInvSqrt2Pi = 0.39894228040143268f;
    const FloatVec e = Exp2BelowMax<kFast>(hn::Mul(hn::Mul(x, x), Set(-0.5f * kLog2E)));
    const FloatVec cdf = NormalCdf<kFast>(x);
    *value = hn::Mul(x, cdf);
    *grad = hn::MulAdd(hn::Mul(x, Set(kInvSqrt2Pi)), e, cdf);
  } else if constexpr (kKind == ActivationKind::kGeluTanh) {
    constexpr float kScale = 2.0f * 0.79788456080286536f;
    const FloatVec slope = hn::MulAdd(hn::Mul(x, x), Set(3.0f * 0.044715f * kScale), Set(kScale));
    weighted(GeluTanhExponent(x), slope);
  } else if constexpr (kKind == ActivationKind::kSilu) {
    weighted(hn::Neg(x), one);
  } else if constexpr (kKind == ActivationKind::kSigmoid) {
    LogisticSlope<kFast>(hn::Neg(x), value, grad);
  } else if constexpr (kKind == ActivationKind::kTanh) {
    *value = Tanh<kFast>(x);
    *grad = hn::NegMulAdd(*value, *value, one);
  } else {
    static_assert(kKind == ActivationKind::kQuickGelu, "a gated kind is not elementwise");
    weighted(hn::Mul(x, Set(-kQuickGeluScale)), Set(kQuickGeluScale));
  }
}

template <ActivationKind kKind, bool kFast>
KPT_SIMD_INLINE FloatVec ActivateGrad(FloatVec x) {
  FloatVec value, grad;
  ActivateWithGrad<kKind, kFast>(x, &value, &grad);
  return grad;
}

// grad * d Activate / dx. relu selects: where it is flat, an infinite gradient gives 0 too.
template <ActivationKind kKind, bool kFast>
KPT_SIMD_INLINE FloatVec Backpropagate(FloatVec grad, FloatVec x) {
  if constexpr (kKind == ActivationKind::kRelu) {
    return hn::IfThenZeroElse(hn::Le(x, Set(0.0f)), grad);
  } else {
    return hn::Mul(grad, ActivateGrad<kKind, kFast>(x));
  }
}

// f(kind's constant) for an elementwise kind; the kind is a template argument of what f calls.
template <class F>
KPT_SIMD_INLINE void SwitchKind(ActivationKind kind, const F& f) {
  using K = ActivationKind;
  switch (kind) {
    case K::kRelu:
      return f(std::integral_constant<K, K::kRelu>());
    case K::kGelu:
      return f(std::integral_constant<K, K::kGelu>());
    case K::kGeluTanh:
      return f(std::integral_constant<K, K::kGeluTanh>());
    case K::kSilu:
      return f(std::integral_constant<K, K::kSilu>());
    case K::kSigmoid:
      return f(std::integral_constant<K, K::kSigmoid>());
    case K::kTanh:
      return f(std::integral_constant<K, K::kTanh>());
    case K::kQuickGelu:
      return f(std::integral_constant<K, K::kQuickGelu>());
    default:
      return;  // refused by the operators' checks
  }
}

}  // namespace kpt::cpu::KPT_SIMD_NS
HWY_AFTER_NAMESPACE();

#endif  // KPT_KERNELS_BASE_SIMD_MATH_H_

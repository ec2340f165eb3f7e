// Elementary functions and activations for kernels on a GPU, with the polynomials of simd_math.h.
//
// Each is made for results of one type: float to a few units in the last place (gelu to 2e-7 of x),
// half and bfloat16 to well within what rounding the result costs. Formulas and special values:
// kernels/activation/act.h.
#ifndef KPT_KERNELS_BASE_GPU_MATH_H_
#define KPT_KERNELS_BASE_GPU_MATH_H_

#include <type_traits>

#include "kernels/base/activation_kind.h"
#include "kernels/base/gpu/pack.h"
#include "kernels/base/simd_math_constants.h"

namespace kpt::gpu {

inline constexpr float kLog2E = 1.44269504088896341f;

// Polynomials of the lowest degree serve bfloat16; the others take the precise ones.
template <class T>
inline constexpr bool kCoarse = std::is_same_v<T, BFloat16>;
// Arguments of exponentials are reduced exactly for float alone.
template <class T>
inline constexpr bool kExact = std::is_same_v<T, float>;

// kC[0] + kC[1] x + ... by Horner's rule. Constants of the host are known to a kernel as values
// alone.
template <const auto& kC, int kIndex = 0>
KPT_DEVICE float Polynomial(float x) {
  constexpr float kTerm = kC[kIndex];
  if constexpr (kIndex + 1 == static_cast<int>(sizeof(kC) / sizeof(kC[0]))) {
    return kTerm;
  } else {
    return kTerm + x * Polynomial<kC, kIndex + 1>(x);
  }
}

// In this order a NaN as x stays.
KPT_DEVICE float AtMost(float most, float x) { return x > most ? most : x; }
KPT_DEVICE float AtLeast(float least, float x) { return x < least ? least : x; }

// e^v for v <= 88; 0 far below.
template <class T>
KPT_DEVICE float ExpBelowMax(float v) {
  if constexpr (!kExact<T>) {
    return FastExp2(v * kLog2E);
  } else {
    // With 1.5 * 2^23 + 127 added, the low bits of the sum are the exponent field of 2^n. Below
    // v = -88 that is 0.
    v = AtLeast(-88.0f, v);
    const float magic = 12582912.0f + 127.0f;
    const float z = v * kLog2E + magic;
    const float n = z - magic;
    const float r = (v - n * 0.693145752f) - n * 1.42860677e-6f;  // 15 bits: n times it is exact
    return FastExp2(r * kLog2E) * BitsToFloat(FloatToBits(z) << 23);
  }
}

template <class T>
KPT_DEVICE float Reciprocal(float d) {
  if constexpr (kExact<T>) return 1.0f / d;
  return FastReciprocal(d);
}

// 1 / (1 + e^v), exactly 0 where e^v overflows (so that an infinite factor gives NaN, as in
// PyTorch).
template <class T>
KPT_DEVICE float Logistic(float v) {
  if constexpr (!kExact<T>) {
    return FastReciprocal(1.0f + FastExp2(v * kLog2E));
  } else {
    const float r = 1.0f / (1.0f + ExpBelowMax<T>(AtMost(87.0f, v)));
    return v >= 87.0f ? 0.0f : r;
  }
}

// s = 1 / (1 + e^v) and s (1 - s), without the cancellation in 1 - s.
template <class T>
KPT_DEVICE void LogisticSlope(float v, float* s, float* slope) {
  const float e = ExpBelowMax<T>(AtMost(87.0f, v));
  const float r = Reciprocal<T>(1.0f + e);
  *s = v >= 87.0f ? 0.0f : r;
  *slope = *s * (e * r);
}

template <class T>
KPT_DEVICE float Tanh(float x) {
  const float u = x * x;
  float p;
  if constexpr (kCoarse<T>) {
    p = Polynomial<kTanhFast>(u);
  } else {
    p = Polynomial<kTanh>(u);
  }
  const float small = x + x * u * p;
  const float a = x < 0.0f ? -x : x;
  // 1 - 2 / (1 + e^(2 |x|)); e^44 already gives 1.
  const float large = 1.0f - 2.0f * Reciprocal<T>(1.0f + ExpBelowMax<T>(AtMost(44.0f, 2.0f * a)));
  return a < 0.625f ? small : x < 0.0f ? -large : large;
}

// The normal distribution function: its log odds are x times a smooth even function. NaN may give
// anything: callers multiply by x.
template <class T>
KPT_DEVICE float NormalCdf(float x) {
  float q;
  if constexpr (kCoarse<T>) {
    const float u = AtMost(kGeluOddsFastLimit * kGeluOddsFastLimit, x * x);
    q = Polynomial<kGeluOddsFast>(u);
  } else {
    const float u = AtMost(kGeluOddsLimit * kGeluOddsLimit, x * x);
    q = Polynomial<kGeluOdds>(u);
  }
  // The odds are powers of 2.
  if constexpr (!kExact<T>) return FastReciprocal(1.0f + FastExp2(x * q));
  return Logistic<T>(x * q * 0.693147181f);
}

// The argument of the logistic function in gelu_tanh:
// (1 + tanh(v)) / 2 = 1 / (1 + e^(-2 v)) with v = sqrt(2 / pi) (x + 0.044715 x^3).
KPT_DEVICE float GeluTanhExponent(float x) {
  constexpr float kScale = -2.0f * 0.79788456080286536f;
  return x * (kScale + x * x * (kScale * 0.044715f));
}

inline constexpr float kQuickGeluScale = 1.702f;

template <ActivationKind kKind, class T>
KPT_DEVICE float Activate(float x) {
  if constexpr (kKind == ActivationKind::kRelu) {
    return AtLeast(0.0f, x);
  } else if constexpr (kKind == ActivationKind::kGelu) {
    return x * NormalCdf<T>(x);
  } else if constexpr (kKind == ActivationKind::kGeluTanh) {
    return x * Logistic<T>(GeluTanhExponent(x));
  } else if constexpr (kKind == ActivationKind::kSilu) {
    return x * Logistic<T>(-x);
  } else if constexpr (kKind == ActivationKind::kSigmoid) {
    return Logistic<T>(-x);
  } else if constexpr (kKind == ActivationKind::kTanh) {
    return Tanh<T>(x);
  } else {
    static_assert(kKind == ActivationKind::kQuickGelu, "not an elementwise kind");
    return x * Logistic<T>(x * -kQuickGeluScale);
  }
}

// Of x s with s = 1 / (1 + e^v): s - x s (1 - s) v'(x).
template <class T>
KPT_DEVICE float WeightedSlope(float x, float v, float minus_dv) {
  float s, slope;
  LogisticSlope<T>(v, &s, &slope);
  return s + x * minus_dv * slope;
}

// grad * d Activate / dx. relu selects: where it is flat, an infinite gradient gives 0 too.
template <ActivationKind kKind, class T>
KPT_DEVICE float Backpropagate(float grad, float x) {
  if constexpr (kKind == ActivationKind::kRelu) {
    return x <= 0.0f ? 0.0f : grad;
  } else if constexpr (kKind == ActivationKind::kGelu) {
    // Phi(x) + x phi(x). NaN comes through the product, whatever NormalCdf makes of it.
    constexpr float kInvSqrt2Pi = 0.39894228040143268f;
    const float e = FastExp2(x * x * (-0.5f * kLog2E));
    return grad * (NormalCdf<T>(x) + x * kInvSqrt2Pi * e);
  } else if constexpr (kKind == ActivationKind::kGeluTanh) {
    constexpr float kScale = 2.0f * 0.79788456080286536f;
    return grad *
           WeightedSlope<T>(x, GeluTanhExponent(x), kScale + x * x * (3.0f * 0.044715f * kScale));
  } else if constexpr (kKind == ActivationKind::kSilu) {
    return grad * WeightedSlope<T>(x, -x, 1.0f);
  } else if constexpr (kKind == ActivationKind::kSigmoid) {
    float s, slope;
    LogisticSlope<T>(-x, &s, &slope);
    return grad * slope;
  } else if constexpr (kKind == ActivationKind::kTanh) {
    const float t = Tanh<T>(x);
    return grad * (1.0f - t * t);
  } else {
    static_assert(kKind == ActivationKind::kQuickGelu, "not an elementwise kind");
    return grad * WeightedSlope<T>(x, x * -kQuickGeluScale, kQuickGeluScale);
  }
}

template <ActivationKind kKind>
struct KindConstant {
  static constexpr ActivationKind value = kKind;
};

// f(KindConstant of `kind`): one branch, taken by all threads alike.
template <class F>
KPT_DEVICE void SwitchKind(ActivationKind kind, const F& f) {
  using K = ActivationKind;
  switch (kind) {
    case K::kRelu:
      return f(KindConstant<K::kRelu>());
    case K::kGelu:
      return f(KindConstant<K::kGelu>());
    case K::kGeluTanh:
      return f(KindConstant<K::kGeluTanh>());
    case K::kSilu:
      return f(KindConstant<K::kSilu>());
    case K::kSigmoid:
      return f(KindConstant<K::kSigmoid>());
    case K::kTanh:
      return f(KindConstant<K::kTanh>());
    case K::kQuickGelu:
      return f(KindConstant<K::kQuickGelu>());
    default:
      return;  // refused by the operators' checks
  }
}

}  // namespace kpt::gpu

#endif  // KPT_KERNELS_BASE_GPU_MATH_H_

// Vector functions of the online softmax: 2^t, log2, reductions of many rows at once.
//
// Included by files compiled once per instruction set: everything lies in KPT_SIMD_NS.
#ifndef KPT_KERNELS_ATTENTION_CPU_FLASH_MATH_H_
#define KPT_KERNELS_ATTENTION_CPU_FLASH_MATH_H_

#include "kernels/attention/cpu/flash_block.h"

HWY_BEFORE_NAMESPACE();
namespace kpt::cpu::KPT_SIMD_NS {

// 2^f on [0, 1), exact at 0; least maximal relative error by reweighted least squares.
constexpr float kExp2Degree4[5] = {1.0f, 0.693044845f, 0.241280206f, 0.0522424716f, 0.0134266859f};
constexpr float kExp2Degree6[7] = {1.0f,           0.693147044f,  0.240229306f,   0.0554852806f,
                                   0.00967545161f, 0.0012467846f, 0.000216129168f};

// 2^t for t < 127; exactly 0 for -inf; NaN stays NaN. Relative error 3e-6 when the result is a
// weight that is rounded to bfloat16 (kBf16), else 1.3e-7.
template <bool kBf16>
KPT_SIMD_INLINE FloatVec ExpWeight(FloatVec t) {
#if HWY_TARGET <= HWY_AVX3
  // vreduceps with "round down, no fraction bits" gives t - floor(t), and 0 for infinities;
  // vscalefps multiplies by 2^floor(t). So neither clamping nor splitting is needed.
  const FloatVec f{_mm512_reduce_ps(t.raw, 1)};
  FloatVec p;
  if constexpr (kBf16) {
    p = Polynomial(f, kExp2Degree4);
  } else {
    p = Polynomial(f, kExp2Degree6);
  }
  return FloatVec{_mm512_scalef_ps(p.raw, t.raw)};
#else
  return Exp2BelowMax<false>(t);
#endif
}

// log2(x) for x = 0 or normal, with log2(0) = -inf; NaN and +inf stay. Error 1e-7 of 1 + |log2 x|.
KPT_SIMD_INLINE FloatVec Log2(FloatVec x) {
  const hn::RebindToSigned<FloatTag> di;
  // x = m 2^e with m in [1/sqrt(2), sqrt(2))
  const auto bits = hn::Sub(hn::BitCast(di, x), hn::Set(di, 0x3f3504f3));
  const auto e = hn::ShiftRight<23>(bits);
  const FloatVec m = hn::BitCast(
      FloatTag(), hn::Add(hn::And(bits, hn::Set(di, 0x007fffff)), hn::Set(di, 0x3f3504f3)));
  // log2(m) = 2 / ln 2 * atanh(r), r = (m - 1) / (m + 1), |r| < 0.172
  const FloatVec r = hn::Div(hn::Sub(m, Set(1.0f)), hn::Add(m, Set(1.0f)));
  constexpr float kTwoOverLn2 = 2.0f / kLn2;
  constexpr float kTerms[5] = {kTwoOverLn2, kTwoOverLn2 / 3, kTwoOverLn2 / 5, kTwoOverLn2 / 7,
                               kTwoOverLn2 / 9};
  const FloatVec y = hn::MulAdd(r, Polynomial(hn::Mul(r, r), kTerms), hn::ConvertTo(FloatTag(), e));
  const FloatVec infinite = Set(-kNegInf);
  const FloatVec positive = hn::IfThenElse(hn::Eq(x, infinite), infinite, y);
  const FloatVec any = hn::IfThenElse(hn::Eq(x, Set(0.0f)), Set(kNegInf), positive);
  return hn::IfThenElse(hn::Eq(x, x), any, x);
}

struct MaxOp {
  KPT_SIMD_INLINE FloatVec Two(FloatVec a, FloatVec b) { return hn::Max(a, b); }
  KPT_SIMD_INLINE float All(FloatVec a) { return hn::ReduceMax(FloatTag(), a); }
};
struct SumOp {
  KPT_SIMD_INLINE FloatVec Two(FloatVec a, FloatVec b) { return hn::Add(a, b); }
  KPT_SIMD_INLINE float All(FloatVec a) { return hn::ReduceSum(FloatTag(), a); }
};

// out[r] = Op over the lanes of vector r of `rows` (16 floats apart), for r in [0, 16).
template <class Op>
KPT_SIMD_INLINE void ReduceRows(const float* rows, float* out) {
#if HWY_TARGET <= HWY_AVX3
  // A tree that halves the number of vectors: 45 instructions for 16 rows.
  __m512 a[8];
  HWY_UNROLL(8)
  for (int i = 0; i < 8; ++i) {
    const __m512 x = _mm512_load_ps(rows + 32 * i);
    const __m512 y = _mm512_load_ps(rows + 32 * i + 16);
    a[i] = Op::Two(FloatVec{_mm512_unpacklo_ps(x, y)}, FloatVec{_mm512_unpackhi_ps(x, y)}).raw;
  }
  __m512 b[4];
  HWY_UNROLL(4)
  for (int i = 0; i < 4; ++i) {
    const __m512d x = _mm512_castps_pd(a[2 * i]);
    const __m512d y = _mm512_castps_pd(a[2 * i + 1]);
    b[i] = Op::Two(FloatVec{_mm512_castpd_ps(_mm512_unpacklo_pd(x, y))},
                   FloatVec{_mm512_castpd_ps(_mm512_unpackhi_pd(x, y))})
               .raw;
  }
  const auto blocks = [](__m512 x, __m512 y) {
    return Op::Two(FloatVec{_mm512_shuffle_f32x4(x, y, 0x88)},
                   FloatVec{_mm512_shuffle_f32x4(x, y, 0xdd)})
        .raw;
  };
  _mm512_storeu_ps(out, blocks(blocks(b[0], b[1]), blocks(b[2], b[3])));
#else
  for (int r = 0; r < 16; ++r) out[r] = Op::All(hn::LoadU(FloatTag(), rows + 16 * r));
#endif
}

}  // namespace kpt::cpu::KPT_SIMD_NS
HWY_AFTER_NAMESPACE();

#endif  // KPT_KERNELS_ATTENTION_CPU_FLASH_MATH_H_

// fp8 (OCP E4M3FN and E5M2) and float vectors, portable SIMD.
//
// Encoders give one code per 32-bit lane: sign in bit 7, magnitude below, the bits above zero.
// They saturate (infinities too) and keep NaN, with its sign, as the code whose magnitude is all
// ones; what they round is exact in float, so there is one rounding. PackCodes makes bytes of them.
//
// Included by files compiled once per instruction set; see simd_io.h.
#ifndef KPT_KERNELS_BASE_SIMD_FP8_H_
#define KPT_KERNELS_BASE_SIMD_FP8_H_

#include "kernels/base/simd_io.h"

HWY_BEFORE_NAMESPACE();
namespace kpt::cpu::KPT_SIMD_NS {

using UIntTag = hn::RebindToUnsigned<FloatTag>;
using UIntVec = hn::Vec<UIntTag>;
using IntTag = hn::RebindToSigned<FloatTag>;
using IntVec = hn::Vec<IntTag>;
using ByteTag = hn::Repartition<uint8_t, FloatTag>;
using QuarterByteTag = hn::Rebind<uint8_t, FloatTag>;

// kMan bits of mantissa; the smallest normal number is 2^kMinExp, the largest finite one kMax.
struct E4M3Format {
  static constexpr int kMan = 3;
  static constexpr int kMinExp = -6;
  static constexpr float kMax = 448.0f;
};
struct E5M2Format {
  static constexpr int kMan = 2;
  static constexpr int kMinExp = -14;
  static constexpr float kMax = 57344.0f;
};

// Exponent fields of float, in place, are written E; kMinE is that of the smallest normal number,
// which subnormals share. The code of a magnitude with field E is (E - kMinE) >> (23 - kMan) plus
// the magnitude in steps of the format's grid there, 2^kMan or more for normal numbers.
template <class F>
constexpr uint32_t kMinE = static_cast<uint32_t>(127 + F::kMinExp) << 23;

// The magnitude's bits, at most kMax; NaN too.
template <class F>
KPT_SIMD_INLINE UIntVec SaturatedMagnitude(UIntVec bits) {
  const UIntTag du;
  const auto most = hn::BitCast(du, hn::Set(FloatTag(), F::kMax));
  return hn::Min(hn::And(bits, hn::Set(du, 0x7fffffffu)), most);
}

template <class F>
KPT_SIMD_INLINE UIntVec ExponentField(UIntVec magnitude) {
  const UIntTag du;
  return hn::Max(hn::And(magnitude, hn::Set(du, 0x7f800000u)), hn::Set(du, kMinE<F>));
}

// The code of a magnitude, in the low seven bits, with the sign and NaN of the number with `bits`.
KPT_SIMD_INLINE UIntVec WithSignAndNan(UIntVec code, UIntVec bits) {
  const UIntTag du;
  const IntTag di;
  const auto nan =
      hn::Gt(hn::BitCast(di, hn::And(bits, hn::Set(du, 0x7fffffffu))), hn::Set(di, 0x7f800000));
  code = hn::Or(code, hn::VecFromMask(du, hn::RebindMask(du, nan)));
  return hn::Or(hn::And(code, hn::Set(du, 0x7fu)),
                hn::And(hn::ShiftRight<24>(bits), hn::Set(du, 0x80u)));
}

#if HWY_TARGET <= HWY_AVX3
// What EncodeNearest adds, by the low bits of E >> 23: the exponents from the smallest normal to
// the largest number have different ones.
template <class F>
struct OffsetTable {
  static constexpr uint32_t kEntries = F::kMan == 3 ? 16 : 32;
  alignas(64) uint32_t bits[kEntries];
  constexpr OffsetTable() : bits() {
    const uint32_t first = kMinE<F> >> 23;
    for (uint32_t i = 0; i < kEntries; ++i) {
      bits[(first + i) % kEntries] = ((first + i + 23 - F::kMan) << 23) + (i << F::kMan);
    }
  }
};
template <class F>
constexpr OffsetTable<F> kOffsets;
#endif

// Rounds to nearest even.
//
// Adding c = 2^(e + 23 - kMan) to a magnitude of exponent e leaves it, rounded by the hardware to
// the format's grid, in the low bits of the sum. With the first part of the code already in the low
// bits of c (it is even, so ties go where they should), the low byte of the sum is the code.
template <class F>
struct EncodeNearest {
  HWY_INLINE UIntVec operator()(FloatVec v) const {
#if HWY_TARGET <= HWY_AVX3
    const __m512 magnitude = _mm512_range_ps(v.raw, _mm512_set1_ps(F::kMax), 0b1010);
    const __m512i index =
        _mm512_srli_epi32(_mm512_max_epi32(_mm512_castps_si512(magnitude),
                                           _mm512_set1_epi32(static_cast<int>(kMinE<F>))),
                          23);
    const __m512 low = _mm512_load_ps(kOffsets<F>.bits);
    __m512 c;
    if constexpr (OffsetTable<F>::kEntries == 16) {
      c = _mm512_permutexvar_ps(index, low);
    } else {
      c = _mm512_permutex2var_ps(low, index, _mm512_load_ps(kOffsets<F>.bits + 16));
    }
    // NaN becomes the largest float, whose low bits are ones.
    const __m512 sum = _mm512_fixupimm_ps(_mm512_add_ps(magnitude, c), v.raw,
                                          _mm512_set1_epi32(0xee), /*no exceptions*/ 0);
    // Bit by bit, 0x7f ? sum : sign.
    const __m512i sign = _mm512_srli_epi32(_mm512_castps_si512(v.raw), 24);
    return UIntVec{
        _mm512_ternarylogic_epi32(_mm512_set1_epi32(0x7f), _mm512_castps_si512(sum), sign, 0xca)};
#else
    const UIntTag du;
    const FloatTag df;
    const auto bits = hn::BitCast(du, v);
    const auto magnitude = SaturatedMagnitude<F>(bits);
    const auto e = ExponentField<F>(magnitude);
    constexpr uint32_t kUp =
        (static_cast<uint32_t>(23 - F::kMan) << 23) - (kMinE<F> >> (23 - F::kMan));
    const auto c = hn::Add(hn::Add(e, hn::ShiftRight<23 - F::kMan>(e)), hn::Set(du, kUp));
    const auto sum = hn::Add(hn::BitCast(df, magnitude), hn::BitCast(df, c));
    return WithSignAndNan(hn::BitCast(du, sum), bits);
#endif
  }
};

// Rounds a magnitude between two neighbours up with a probability that is its distance from the
// lower one, over theirs, to a resolution of 2^(kMan - 23): up when that and the top bits of
// `random`, as a fraction, reach 1. What the format holds exactly stays.
template <class F>
struct EncodeStochastic {
  HWY_INLINE UIntVec operator()(FloatVec v, UIntVec random) const {
    constexpr int kBits = 23 - F::kMan;
    const UIntTag du;
    const FloatTag df;
    const auto bits = hn::BitCast(du, v);
    const auto magnitude = SaturatedMagnitude<F>(bits);
    const auto e = ExponentField<F>(magnitude);
    // Times 2^23 over the power of two of the exponent: steps with kBits bits of fraction.
    const auto factor = hn::Sub(hn::Set(du, (23u + 2 * 127) << 23), e);
    const auto fixed = hn::BitCast(
        du, hn::ConvertTo(IntTag(), hn::Mul(hn::BitCast(df, magnitude), hn::BitCast(df, factor))));
    const auto steps = hn::ShiftRight<kBits>(hn::Add(fixed, hn::ShiftRight<32 - kBits>(random)));
    const auto start = hn::ShiftRight<23 - F::kMan>(hn::Sub(e, hn::Set(du, kMinE<F>)));
    return WithSignAndNan(hn::Add(steps, start), bits);
  }
};

// Four vectors of codes (each lane below 256) to bytes, in order.
KPT_SIMD_INLINE hn::Vec<ByteTag> PackCodes(UIntVec a, UIntVec b, UIntVec c, UIntVec d) {
  const hn::Repartition<int16_t, FloatTag> dw;
  const IntTag di;
  const auto as_int = [=](UIntVec v) HWY_ATTR { return hn::BitCast(di, v); };
#if HWY_TARGET <= HWY_AVX2
  // Packing works in blocks of 128 bits, each of which gets a dword of every vector.
  const auto ab = hn::ReorderDemote2To(dw, as_int(a), as_int(b));
  const auto cd = hn::ReorderDemote2To(dw, as_int(c), as_int(d));
  const auto blocks = hn::BitCast(di, hn::ReorderDemote2To(ByteTag(), ab, cd));
#if HWY_TARGET <= HWY_AVX3
  alignas(64) static constexpr int32_t kOrder[16] = {0, 4, 8,  12, 1, 5, 9,  13,
                                                     2, 6, 10, 14, 3, 7, 11, 15};
#else
  alignas(32) static constexpr int32_t kOrder[8] = {0, 4, 1, 5, 2, 6, 3, 7};
#endif
  return hn::BitCast(ByteTag(), hn::TableLookupLanes(blocks, hn::SetTableIndices(di, kOrder)));
#else
  const auto ab = hn::OrderedDemote2To(dw, as_int(a), as_int(b));
  const auto cd = hn::OrderedDemote2To(dw, as_int(c), as_int(d));
  return hn::OrderedDemote2To(ByteTag(), ab, cd);
#endif
}

// The numbers of 2 * kLanes codes, the first and the second half. Exact; NaN stays.
template <class F>
KPT_SIMD_INLINE void DecodeFp8(const uint8_t* codes, FloatVec* first, FloatVec* second) {
  // By way of half, whose exponents reach as far as both formats'.
  const hn::Repartition<uint16_t, FloatTag> dw;
  const hn::Repartition<int16_t, FloatTag> di;
  const hn::Half<ByteTag> db;
  const auto wide = hn::PromoteTo(dw, hn::LoadU(db, codes));
  auto half = hn::ShiftLeft<8>(wide);
  if constexpr (F::kMan == 3) {
    // Sign and magnitude in place; the exponent's bias is 8 less than half's.
    const auto nan =
        hn::Eq(hn::And(wide, hn::Set(dw, uint16_t{0x7f})), hn::Set(dw, uint16_t{0x7f}));
    half = hn::And(hn::BitCast(dw, hn::ShiftRight<1>(hn::BitCast(di, half))),
                   hn::Set(dw, uint16_t{0xbf80}));
    half = hn::Or(half, hn::IfThenElseZero(nan, hn::Set(dw, uint16_t{0x7e00})));
  }
  const hn::Repartition<Half, FloatTag> dh;
  const hn::Half<hn::Repartition<Half, FloatTag>> dhalf;
  const auto halves = hn::BitCast(dh, half);
  *first = Widen(hn::LowerHalf(dhalf, halves));
  *second = Widen(hn::UpperHalf(dhalf, halves));
  if constexpr (F::kMan == 3) {
    const FloatVec bias = hn::Set(FloatTag(), 256.0f);
    *first = hn::Mul(*first, bias);
    *second = hn::Mul(*second, bias);
  }
}

// Byte kByte of each lane, sign-extended.
template <int kByte>
KPT_SIMD_INLINE IntVec SignedByte(IntVec v) {
  if constexpr (kByte == 3) {
    return hn::ShiftRight<24>(v);
  } else {
    return hn::ShiftRight<24>(hn::ShiftLeft<24 - 8 * kByte>(v));
  }
}

// The number of the code in byte kByte of each lane. Exact; NaN stays.
template <class F, int kByte>
KPT_SIMD_INLINE FloatVec DecodeByte(IntVec v) {
  constexpr int kBias = 1 - F::kMinExp;
  constexpr bool kHasInfinity = F::kMan == 2;
  const FloatTag df;
  const IntTag di;
  const auto byte = SignedByte<kByte>(v);
  const auto magnitude = hn::And(byte, hn::Set(di, 0x7f));
  const auto sign = hn::And(byte, hn::Set(di, static_cast<int32_t>(0x80000000u)));
  // Normal: the bias of the exponent becomes 127. Subnormal: a multiple of the smallest.
  const auto normal =
      hn::Add(hn::ShiftLeft<23 - F::kMan>(magnitude), hn::Set(di, (127 - kBias) << 23));
  constexpr float kSmallest = 1.0f / (1 << (kBias - 1 + F::kMan));
  const auto tiny = hn::BitCast(di, hn::Mul(hn::ConvertTo(df, magnitude), hn::Set(df, kSmallest)));
  auto bits = hn::IfThenElse(hn::Lt(magnitude, hn::Set(di, 1 << F::kMan)), tiny, normal);
  const auto special = [&](int code, int32_t value) HWY_ATTR {
    bits = hn::IfThenElse(hn::Gt(magnitude, hn::Set(di, code - 1)), hn::Set(di, value), bits);
  };
  if constexpr (kHasInfinity) special(0x7c, 0x7f800000);
  special(kHasInfinity ? 0x7d : 0x7f, 0x7fc00000);
  return hn::BitCast(df, hn::Or(bits, sign));
}

}  // namespace kpt::cpu::KPT_SIMD_NS
HWY_AFTER_NAMESPACE();

#endif  // KPT_KERNELS_BASE_SIMD_FP8_H_

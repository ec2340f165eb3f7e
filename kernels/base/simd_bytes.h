// Numbers of one byte that loads make floats of, beside those of simd_io.h. Included by files
// compiled once per instruction set.
#ifndef KPT_KERNELS_BASE_SIMD_BYTES_H_
#define KPT_KERNELS_BASE_SIMD_BYTES_H_

#include <cstdint>

#include "kernels/base/simd_fp8.h"

HWY_BEFORE_NAMESPACE();
namespace kpt::cpu::KPT_SIMD_NS {

// The numbers of kLanes codes, one a lane of bytes. Exact; NaN stays.
template <class F>
KPT_SIMD_INLINE FloatVec DecodeFp8(hn::Vec<QuarterByteTag> codes) {
  const hn::Rebind<uint16_t, FloatTag> dw;  // as DecodeFp8 of two vectors
  const hn::Rebind<int16_t, FloatTag> di;
  const auto wide = hn::PromoteTo(dw, codes);
  auto half = hn::ShiftLeft<8>(wide);
  if constexpr (F::kMan == 3) {
    const auto nan =
        hn::Eq(hn::And(wide, hn::Set(dw, uint16_t{0x7f})), hn::Set(dw, uint16_t{0x7f}));
    half = hn::And(hn::BitCast(dw, hn::ShiftRight<1>(hn::BitCast(di, half))),
                   hn::Set(dw, uint16_t{0xbf80}));
    half = hn::Or(half, hn::IfThenElseZero(nan, hn::Set(dw, uint16_t{0x7e00})));
  }
  const FloatVec value = Widen(hn::BitCast(HalfTag(), half));
  return F::kMan == 3 ? hn::Mul(value, hn::Set(FloatTag(), 256.0f)) : value;
}

template <class F>
struct Fp8 {
  uint8_t code;
};
struct Int8 {
  int8_t code;
};

template <class F>
KPT_SIMD_INLINE FloatVec Load(const Fp8<F>* p) {
  return DecodeFp8<F>(hn::LoadU(QuarterByteTag(), &p->code));
}
template <class F>
KPT_SIMD_INLINE FloatVec LoadN(const Fp8<F>* p, int64_t n) {
  return DecodeFp8<F>(hn::LoadN(QuarterByteTag(), &p->code, static_cast<size_t>(n)));
}
KPT_SIMD_INLINE FloatVec Widen(hn::Vec<hn::Rebind<int8_t, FloatTag>> v) {
  return hn::ConvertTo(FloatTag(), hn::PromoteTo(IntTag(), v));
}
KPT_SIMD_INLINE FloatVec Load(const Int8* p) {
  return Widen(hn::LoadU(hn::Rebind<int8_t, FloatTag>(), &p->code));
}
KPT_SIMD_INLINE FloatVec LoadN(const Int8* p, int64_t n) {
  return Widen(hn::LoadN(hn::Rebind<int8_t, FloatTag>(), &p->code, static_cast<size_t>(n)));
}

}  // namespace kpt::cpu::KPT_SIMD_NS
HWY_AFTER_NAMESPACE();

#endif  // KPT_KERNELS_BASE_SIMD_BYTES_H_

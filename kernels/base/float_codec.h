// Exact scalar conversions between float and the narrow formats. Every encoder rounds to nearest
// even; the fp8 encoders follow the OCP FP8 specification (E4M3FN, E5M2) and AMD's FNUZ variant.
// Everything has internal linkage: files built for different ISA levels must not share copies.
#ifndef KPT_KERNELS_BASE_FLOAT_CODEC_H_
#define KPT_KERNELS_BASE_FLOAT_CODEC_H_

#include <cstdint>
#include <cstring>

#include "kernels/base/host_device.h"

namespace kpt {
namespace {

[[maybe_unused]] KPT_HOST_DEVICE inline uint32_t FloatBits(float x) {
  uint32_t u;
  std::memcpy(&u, &x, 4);
  return u;
}
[[maybe_unused]] KPT_HOST_DEVICE inline float FloatFromBits(uint32_t u) {
  float x;
  std::memcpy(&x, &u, 4);
  return x;
}

[[maybe_unused]] inline float DecodeBf16(uint16_t x) {
  return FloatFromBits(static_cast<uint32_t>(x) << 16);
}
[[maybe_unused]] inline uint16_t EncodeBf16(float x) {
  const uint32_t u = FloatBits(x);
  if ((u & 0x7fffffff) > 0x7f800000) return static_cast<uint16_t>((u >> 16) | 0x40);  // quiet NaN
  return static_cast<uint16_t>((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}

// A small float: sign, kExp exponent bits with bias kBias, kMan mantissa bits.
// kInf: the top exponent holds infinities and NaNs (IEEE). kFnuz: 0x80 is the only NaN, no -0.
// Otherwise (FN): all ones is NaN, everything below it is finite.
template <int kExp, int kMan, int kBias, bool kInf, bool kFnuz>
struct SmallFloat {
  using Code = uint16_t;
  static constexpr uint32_t kSign = 1u << (kExp + kMan);
  static constexpr uint32_t kManMask = (1u << kMan) - 1;
  static constexpr uint32_t kExpMask = (1u << kExp) - 1;
  // As torch writes it: in half a quiet NaN without payload, in fp8 all ones.
  static constexpr uint32_t kNan = kFnuz                ? kSign
                                   : kInf && kMan == 10 ? (kExpMask << kMan) | (1u << (kMan - 1))
                                                        : kSign - 1;
  static constexpr uint32_t kMaxFinite = kFnuz  ? kSign - 1
                                         : kInf ? (kExpMask << kMan) - 1
                                                : kSign - 2;

  KPT_HOST_DEVICE static inline float Decode(uint32_t code) {
    const uint32_t sign = (code & kSign) != 0 ? 0x80000000u : 0u;
    const uint32_t exp = (code >> kMan) & kExpMask;
    const uint32_t man = code & kManMask;
    if (kFnuz && code == kSign) return FloatFromBits(0x7fc00000);
    if (kInf && exp == kExpMask) {
      return FloatFromBits(sign | (man != 0 ? 0x7fc00000u : 0x7f800000u));
    }
    if (!kInf && !kFnuz && (code & (kSign - 1)) == kSign - 1) {
      return FloatFromBits(sign | 0x7fc00000u);
    }
    if (exp == 0) {  // zero or subnormal: man * 2^(1 - bias - kMan), exact in float
      const float scale = FloatFromBits(static_cast<uint32_t>(127 + 1 - kBias - kMan) << 23);
      const float magnitude = static_cast<float>(man) * scale;
      return FloatFromBits(FloatBits(magnitude) | sign);
    }
    return FloatFromBits(sign | ((exp + 127 - kBias) << 23) | (man << (23 - kMan)));
  }

  // Round to nearest even. Overflow gives infinity (kInf) or NaN (without infinities), as
  // torch's casts do; `saturate` gives the largest finite value instead. NaN stays NaN.
  KPT_HOST_DEVICE static inline uint32_t Encode(float x, bool saturate) {
    const uint32_t u = FloatBits(x);
    const uint32_t sign = (u >> 31) != 0 ? kSign : 0u;
    const uint32_t mag = u & 0x7fffffffu;
    if (mag > 0x7f800000u) return kFnuz ? kNan : (sign | kNan);
    const uint32_t over = saturate ? (sign | kMaxFinite)
                          : kInf   ? (sign | (kExpMask << kMan))
                          : kFnuz  ? kNan
                                   : (sign | kNan);
    if (mag == 0x7f800000u) return over;
    uint32_t code;
    const int exp = static_cast<int>(mag >> 23) - 127;
    if (exp >= 1 - kBias) {
      const uint32_t shift = 23 - kMan;
      const uint32_t rounded = mag + ((1u << (shift - 1)) - 1) + ((mag >> shift) & 1);
      code = (rounded >> shift) - (static_cast<uint32_t>(127 - kBias) << kMan);
    } else {
      // Subnormal: adding 2^(23 + 1 - bias - kMan) leaves the rounded mantissa in the low bits.
      const uint32_t magic = static_cast<uint32_t>(127 + 23 + 1 - kBias - kMan) << 23;
      code = FloatBits(FloatFromBits(mag) + FloatFromBits(magic)) - magic;
    }
    if (code > kMaxFinite) return over;
    if (kFnuz && code == 0) return 0;  // no negative zero
    return sign | code;
  }
};

using E4M3FN = SmallFloat<4, 3, 7, false, false>;
using E5M2 = SmallFloat<5, 2, 15, true, false>;
using E4M3FNUZ = SmallFloat<4, 3, 8, false, true>;
using Half = SmallFloat<5, 10, 15, true, false>;

[[maybe_unused]] inline float DecodeHalf(uint16_t x) { return Half::Decode(x); }
[[maybe_unused]] inline uint16_t EncodeHalf(float x) {
  return static_cast<uint16_t>(Half::Encode(x, false));
}

}  // namespace
}  // namespace kpt

#endif  // KPT_KERNELS_BASE_FLOAT_CODEC_H_

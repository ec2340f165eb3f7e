// From what was measured of a group to its scale. Internal linkage: files of every instruction set
// use this header.
#ifndef KPT_KERNELS_QUANT_CPU_SCALE_RULE_H_
#define KPT_KERNELS_QUANT_CPU_SCALE_RULE_H_

#include <cstdint>

#include "kernels/base/float_codec.h"
#include "kernels/quant/cpu/quantize_rows.h"

namespace kpt::cpu {
namespace {

struct ScaleAndZero {
  float scale = 1.0f;
  int32_t zero_point = 0;
};

// Into `range`, so that it covers `other` too.
[[maybe_unused]] inline void Cover(const Range& other, Range* range) {
  if (other.lo < range->lo) range->lo = other.lo;
  if (other.hi > range->hi || other.hi != other.hi) range->hi = other.hi;
}

// The scales of quantize_fp8.h and quantize_int8.h.
[[maybe_unused]] inline ScaleAndZero ScaleOf(QuantFormat format, const Range& range) {
  constexpr float kLeast = 0x1p-126f;
  ScaleAndZero s;
  switch (format) {
    case QuantFormat::kE4M3:
      s.scale = range.hi / 448.0f;
      break;
    case QuantFormat::kE5M2:
      s.scale = range.hi / 57344.0f;
      break;
    case QuantFormat::kInt8:
      s.scale = range.hi / 127.0f;
      break;
    case QuantFormat::kInt8Asymmetric:
      s.scale = (range.hi * 0.5f - range.lo * 0.5f) / 127.5f;
      break;
  }
  if (range.lo == 0.0f && range.hi == 0.0f) {
    s.scale = 1.0f;
  } else if (!(s.scale <= 3.4028234663852886e38f)) {  // an infinity, or NaN
    s.scale = FloatFromBits(0x7fc00000u);
    return s;
  } else if (s.scale < kLeast) {
    s.scale = kLeast;
  }
  if (format == QuantFormat::kInt8Asymmetric) {
    s.zero_point = -128 - static_cast<int32_t>(__builtin_nearbyintf(range.lo * (1.0f / s.scale)));
  }
  return s;
}

}  // namespace
}  // namespace kpt::cpu

#endif  // KPT_KERNELS_QUANT_CPU_SCALE_RULE_H_

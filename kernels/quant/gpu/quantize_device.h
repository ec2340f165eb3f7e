// What the kernels of quantization share: units of 8 elements, the measure of a group, its scale,
// and codes. Rules: kernels/quant/quantize_fp8.h and quantize_int8.h.
#ifndef KPT_KERNELS_QUANT_GPU_QUANTIZE_DEVICE_H_
#define KPT_KERNELS_QUANT_GPU_QUANTIZE_DEVICE_H_

#include "kernels/base/gpu/pack.h"
#include "kernels/base/gpu/philox.h"
#include "kernels/quant/quant_format.h"

namespace kpt::gpu {

// kQuantUnit elements, as they are stored; zeros past the end of the row.
template <class T, bool kAligned>
struct Unit {
  static constexpr int kWidth = kAligned ? kVectorWidth<T> : 1;
  static constexpr int kPacks = kQuantUnit / kWidth;
  using P = Pack<T, kWidth>;

  P packs[kPacks];

  KPT_DEVICE_MEMBER static Unit Zero() {
    Unit unit;
#pragma unroll
    for (int i = 0; i < kPacks; ++i) unit.packs[i] = P::Zero();
    return unit;
  }
  KPT_DEVICE_MEMBER static Unit Load(const T* x, int64_t left) {
    Unit unit;
#pragma unroll
    for (int i = 0; i < kPacks; ++i) {
      unit.packs[i] = kAligned || i < left ? P::Load(x + i * kWidth) : P::Zero();
    }
    return unit;
  }
  KPT_DEVICE_MEMBER void Widen(float (&out)[kQuantUnit]) const {
#pragma unroll
    for (int i = 0; i < kPacks; ++i) {
      float v[kWidth];
      packs[i].Widen(v);
#pragma unroll
      for (int j = 0; j < kWidth; ++j) out[i * kWidth + j] = v[j];
    }
  }
  // Rounds `v` to T, stores it, and leaves in `v` what was stored.
  KPT_DEVICE_MEMBER static void StoreRounded(float (&v)[kQuantUnit], T* to, int64_t left) {
#pragma unroll
    for (int i = 0; i < kPacks; ++i) {
      float part[kWidth];
#pragma unroll
      for (int j = 0; j < kWidth; ++j) part[j] = v[i * kWidth + j];
      const P pack = P::Of(part);
      if (kAligned || i < left) pack.Store(to + i * kWidth);
      pack.Widen(part);
#pragma unroll
      for (int j = 0; j < kWidth; ++j) v[i * kWidth + j] = part[j];
    }
  }
};

// Into measure[0] the largest number and into measure[1] minus the smallest one, both at least 0;
// symmetric formats know magnitudes alone. fp8 leaves NaN out; int8, which has none, counts it as
// an infinity.
KPT_DEVICE void Measure(QuantFormat format, const float (&v)[kQuantUnit], float (&measure)[2]) {
  const bool fp8 = IsFp8(format);
#pragma unroll
  for (int i = 0; i < kQuantUnit; ++i) {
    float high = v[i];
    if (format != QuantFormat::kInt8Asymmetric) {
      high = BitsToFloat(FloatToBits(v[i]) & 0x7fffffffu);
    } else {
      measure[1] = -v[i] > measure[1] ? -v[i] : measure[1];
    }
    if (!fp8 && v[i] != v[i]) high = BitsToFloat(0x7f800000u);
    measure[0] = high > measure[0] ? high : measure[0];
  }
}

struct ScaleAndZero {
  float scale;
  int zero_point;
};

KPT_DEVICE ScaleAndZero ScaleOf(QuantFormat format, const float (&measure)[2]) {
  if (measure[0] == 0.0f && measure[1] == 0.0f) {
    return {1.0f, format == QuantFormat::kInt8Asymmetric ? -128 : 0};
  }
  float scale = 0.0f;
  switch (format) {
    case QuantFormat::kE4M3:
      scale = measure[0] / 448.0f;
      break;
    case QuantFormat::kE5M2:
      scale = measure[0] / 57344.0f;
      break;
    case QuantFormat::kInt8:
      scale = measure[0] / 127.0f;
      break;
    case QuantFormat::kInt8Asymmetric:
      scale = (measure[0] * 0.5f + measure[1] * 0.5f) / 127.5f;
      break;
  }
  if (!(scale <= 3.4028234663852886e38f)) return {BitsToFloat(0x7fc00000u), 0};
  const float least = BitsToFloat(0x00800000u);  // 2^-126
  scale = scale < least ? least : scale;
  int zero = 0;
  if (format == QuantFormat::kInt8Asymmetric) {
    zero = -128 - static_cast<int>(RoundEven(-measure[1] * (1.0f / scale)));
  }
  return {scale, zero};
}

// As EncodeStochastic of simd_fp8.h: up when the distance from the lower neighbour, over theirs,
// and the top bits of `random`, as a fraction, reach 1.
KPT_DEVICE uint32_t EncodeStochastic(float x, uint32_t random, QuantFormat format) {
  const bool e4m3 = format == QuantFormat::kE4M3;
  const int drop = e4m3 ? 20 : 21;  // bits of float's mantissa that the format lacks
  const uint32_t least = static_cast<uint32_t>(e4m3 ? 127 - 6 : 127 - 14) << 23;
  const uint32_t bits = FloatToBits(x);
  const uint32_t plain = bits & 0x7fffffffu;
  const uint32_t most = FloatToBits(e4m3 ? 448.0f : 57344.0f);
  const uint32_t magnitude = plain < most ? plain : most;
  const uint32_t field = magnitude & 0x7f800000u;
  const uint32_t e = field > least ? field : least;
  // Times 2^23 over the power of two of the exponent: steps with `drop` bits of fraction.
  const float factor = BitsToFloat(((23u + 2 * 127) << 23) - e);
  const uint32_t fixed = static_cast<uint32_t>(BitsToFloat(magnitude) * factor);
  const uint32_t code = ((fixed + (random >> (32 - drop))) >> drop) + ((e - least) >> drop);
  return (plain > 0x7f800000u ? 0x7fu : code) | ((bits >> 24) & 0x80u);
}

// Encoders: the codes of v / scale, 4 in each word. `index` is the number of the first element in
// the tensor. kHeld: units that a thread keeps in registers from measuring to encoding.
struct NearestEncoder {
  static constexpr int kHeld = 8;
  KPT_DEVICE_MEMBER static void Encode(const QuantEncoding& e, const float (&v)[kQuantUnit],
                                       float inverse, int, uint64_t, uint32_t (&codes)[2]) {
    float x[kQuantUnit];
#pragma unroll
    for (int i = 0; i < kQuantUnit; ++i) x[i] = v[i] * inverse;
    const Fp8Format fp8 = e.format == QuantFormat::kE4M3 ? Fp8Format::kE4M3FN : Fp8Format::kE5M2;
    codes[0] = EncodeFp8x4(x[0], x[1], x[2], x[3], fp8);
    codes[1] = EncodeFp8x4(x[4], x[5], x[6], x[7], fp8);
  }
};

struct StochasticEncoder {
  static constexpr int kHeld = 1;  // its code is long
  KPT_DEVICE_MEMBER static void Encode(const QuantEncoding& e, const float (&v)[kQuantUnit],
                                       float inverse, int, uint64_t index, uint32_t (&codes)[2]) {
    uint32_t random[kQuantUnit];
    PhiloxWords8(e.seed, index, random);
    codes[0] = codes[1] = 0;
#pragma unroll
    for (int i = 0; i < kQuantUnit; ++i) {
      codes[i / 4] |= EncodeStochastic(v[i] * inverse, random[i], e.format) << (8 * (i % 4));
    }
  }
};

struct Int8Encoder {
  static constexpr int kHeld = 8;
  KPT_DEVICE_MEMBER static void Encode(const QuantEncoding& e, const float (&v)[kQuantUnit],
                                       float inverse, int zero_point, uint64_t,
                                       uint32_t (&codes)[2]) {
    const float zero = static_cast<float>(zero_point);
    const float lowest = (e.format == QuantFormat::kInt8 ? -127.0f : -128.0f) - zero;
    const float highest = 127.0f - zero;
    codes[0] = codes[1] = 0;
#pragma unroll
    for (int i = 0; i < kQuantUnit; ++i) {
      float x = v[i] * inverse;
      x = x == x ? x : 0.0f;
      x = x < highest ? x : highest;
      x = x > lowest ? x : lowest;
      const int q = static_cast<int>(RoundEven(x)) + zero_point;
      codes[i / 4] |= (static_cast<uint32_t>(q) & 0xffu) << (8 * (i % 4));
    }
  }
};

template <bool kAligned>
KPT_DEVICE void StoreCodes(const uint32_t (&codes)[2], uint8_t* to, int64_t left) {
  if constexpr (kAligned) {
    Store8(to, codes[0], codes[1]);
  } else {
#pragma unroll
    for (int i = 0; i < kQuantUnit; ++i) {
      if (i < left) to[i] = static_cast<uint8_t>(codes[i / 4] >> (8 * (i % 4)));
    }
  }
}

}  // namespace kpt::gpu

#endif  // KPT_KERNELS_QUANT_GPU_QUANTIZE_DEVICE_H_

// Pack<T, kWidth>: what a thread moves at once, kept as it is stored: 16 bytes where rows allow,
// else one element.
#ifndef KPT_KERNELS_BASE_GPU_PACK_H_
#define KPT_KERNELS_BASE_GPU_PACK_H_

#include "kernels/base/gpu/vendor.h"

namespace kpt::gpu {

template <class T>
inline constexpr int kVectorWidth = 16 / static_cast<int>(sizeof(T));

KPT_DEVICE float BitsToFloat(uint32_t bits) {
  float x;
  __builtin_memcpy(&x, &bits, 4);
  return x;
}
KPT_DEVICE uint32_t FloatToBits(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, 4);
  return bits;
}

KPT_DEVICE float FloatOf(float x) { return x; }
KPT_DEVICE float FloatOf(BFloat16 x) { return BitsToFloat(static_cast<uint32_t>(x.bits) << 16); }

KPT_DEVICE float Rounded(float x, float) { return x; }
template <class T>
KPT_DEVICE T Rounded(float x, T type) {
  return T{static_cast<uint16_t>(Narrow2(x, 0.0f, type))};
}

// The two elements of a word.
KPT_DEVICE void Widen2(uint32_t word, float* lo, float* hi, BFloat16) {
  *lo = BitsToFloat(word << 16);
  *hi = BitsToFloat(word & 0xffff0000u);
}
KPT_DEVICE void Widen2(uint32_t word, float* lo, float* hi, Float16) {
  *lo = FloatOf(Float16{static_cast<uint16_t>(word)});
  *hi = FloatOf(Float16{static_cast<uint16_t>(word >> 16)});
}

template <class T, int kWidth>
struct Pack {
  static_assert(kWidth == kVectorWidth<T>);

  Words16 words;

  KPT_DEVICE_MEMBER static Pack Zero() { return {{{0, 0, 0, 0}}}; }
  KPT_DEVICE_MEMBER static Pack Load(const T* p) { return {Load16(p)}; }
  KPT_DEVICE_MEMBER static Pack LoadOnce(const T* p) { return {Load16Once(p)}; }
  KPT_DEVICE_MEMBER void Store(T* p) const { Store16(p, words); }

  KPT_DEVICE_MEMBER void Widen(float (&out)[kWidth]) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if constexpr (kWidth == 4) {
        out[i] = BitsToFloat(words.word[i]);
      } else {
        Widen2(words.word[i], &out[2 * i], &out[2 * i + 1], T());
      }
    }
  }
  // Rounded to T.
  KPT_DEVICE_MEMBER static Pack Of(const float (&in)[kWidth]) {
    Pack pack;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if constexpr (kWidth == 4) {
        pack.words.word[i] = FloatToBits(in[i]);
      } else {
        pack.words.word[i] = Narrow2(in[2 * i], in[2 * i + 1], T());
      }
    }
    return pack;
  }
};

template <class T>
struct Pack<T, 1> {
  T element;

  KPT_DEVICE_MEMBER static Pack Zero() { return {T{0}}; }
  KPT_DEVICE_MEMBER static Pack Load(const T* p) { return {*p}; }
  KPT_DEVICE_MEMBER static Pack LoadOnce(const T* p) { return {*p}; }
  KPT_DEVICE_MEMBER void Store(T* p) const { *p = element; }
  KPT_DEVICE_MEMBER void Widen(float (&out)[1]) const { out[0] = FloatOf(element); }
  KPT_DEVICE_MEMBER static Pack Of(const float (&in)[1]) { return {Rounded(in[0], T())}; }
};

// kWidth elements of a parameter that is a T or float, as float.
template <class T, int kWidth>
KPT_DEVICE void LoadParam(const void* data, bool is_float, int64_t at, float (&out)[kWidth]) {
  if (!is_float) {
    Pack<T, kWidth>::Load(static_cast<const T*>(data) + at).Widen(out);
  } else if constexpr (kWidth == 1) {
    out[0] = static_cast<const float*>(data)[at];
  } else {
#pragma unroll
    for (int i = 0; i < kWidth; i += 4) {
      const Words16 words = Load16(static_cast<const float*>(data) + at + i);
#pragma unroll
      for (int j = 0; j < 4; ++j) out[i + j] = BitsToFloat(words.word[j]);
    }
  }
}

}  // namespace kpt::gpu

#endif  // KPT_KERNELS_BASE_GPU_PACK_H_

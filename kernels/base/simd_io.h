// Loads and stores for portable SIMD kernels: float, half and bfloat16 rows, computed in float.
//
// Included by files that are compiled once per instruction set. Everything is static and lives in
// the namespace of that instruction set (KPT_SIMD_NS), so no two copies can be merged.
//
// Stores round to nearest even and keep NaN. One exception: at avx512_bf16 the hardware conversion
// is used, which gives zero for bfloat16 results below 2^-126 (subnormals).
#ifndef KPT_KERNELS_BASE_SIMD_IO_H_
#define KPT_KERNELS_BASE_SIMD_IO_H_

#if !defined(KPT_SIMD_NS)
#error "KPT_SIMD_NS must name the instruction set this file is compiled for"
#endif
#if !defined(HWY_COMPILE_ONLY_STATIC)
#define HWY_COMPILE_ONLY_STATIC
#endif

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace kpt::cpu::KPT_SIMD_NS {

namespace hn = hwy::HWY_NAMESPACE;

using Half = hwy::float16_t;
using BFloat16 = hwy::bfloat16_t;
using FloatTag = hn::ScalableTag<float>;
using FloatVec = hn::Vec<FloatTag>;
using HalfTag = hn::Rebind<Half, FloatTag>;
using BFloat16Tag = hn::Rebind<BFloat16, FloatTag>;

// Floats in one vector.
constexpr int64_t kLanes = static_cast<int64_t>(hn::MaxLanes(FloatTag()));

#define KPT_SIMD_INLINE [[maybe_unused]] static HWY_INLINE

KPT_SIMD_INLINE FloatVec Widen(hn::Vec<HalfTag> v) {
#if HWY_ARCH_X86 && HWY_TARGET > HWY_AVX2
  // Without F16C, Highway 1.2 reads infinities and NaNs as finite numbers.
  const hn::RebindToUnsigned<FloatTag> du;
  const auto bits = hn::PromoteTo(du, hn::BitCast(hn::Rebind<uint16_t, FloatTag>(), v));
  const auto magnitude = hn::ShiftLeft<13>(hn::And(bits, hn::Set(du, 0x7fffu)));
  // The product with 2^112 moves the exponent's bias, for subnormals too.
  const auto finite =
      hn::BitCast(du, hn::Mul(hn::BitCast(FloatTag(), magnitude), hn::Set(FloatTag(), 0x1p112f)));
  const auto special = hn::Ge(magnitude, hn::Set(du, 0x7c00u << 13));
  const auto value = hn::IfThenElse(special, hn::Or(magnitude, hn::Set(du, 0x7f800000u)), finite);
  return hn::BitCast(FloatTag(),
                     hn::Or(value, hn::ShiftLeft<16>(hn::And(bits, hn::Set(du, 0x8000u)))));
#else
  return hn::PromoteTo(FloatTag(), v);
#endif
}

KPT_SIMD_INLINE FloatVec Load(const float* p) { return hn::LoadU(FloatTag(), p); }
KPT_SIMD_INLINE FloatVec Load(const Half* p) { return Widen(hn::LoadU(HalfTag(), p)); }
KPT_SIMD_INLINE FloatVec Load(const BFloat16* p) {
  return hn::PromoteTo(FloatTag(), hn::LoadU(BFloat16Tag(), p));
}

// The first n < kLanes elements; the other lanes are zero.
KPT_SIMD_INLINE FloatVec LoadN(const float* p, int64_t n) {
  return hn::LoadN(FloatTag(), p, static_cast<size_t>(n));
}
KPT_SIMD_INLINE FloatVec LoadN(const Half* p, int64_t n) {
  return Widen(hn::LoadN(HalfTag(), p, static_cast<size_t>(n)));
}
KPT_SIMD_INLINE FloatVec LoadN(const BFloat16* p, int64_t n) {
  return hn::PromoteTo(FloatTag(), hn::LoadN(BFloat16Tag(), p, static_cast<size_t>(n)));
}

KPT_SIMD_INLINE auto Narrow(FloatVec v, Half*) { return hn::DemoteTo(HalfTag(), v); }
KPT_SIMD_INLINE auto Narrow(FloatVec v, BFloat16*) {
#if defined(__AVX512BF16__)
  return hn::Vec<BFloat16Tag>{reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(v.raw))};
#else
  return hn::DemoteTo(BFloat16Tag(), v);
#endif
}

KPT_SIMD_INLINE void StoreN(FloatVec v, float* p, int64_t n) {
  hn::StoreN(v, FloatTag(), p, static_cast<size_t>(n));
}
KPT_SIMD_INLINE void StoreN(FloatVec v, Half* p, int64_t n) {
  hn::StoreN(Narrow(v, p), HalfTag(), p, static_cast<size_t>(n));
}
KPT_SIMD_INLINE void StoreN(FloatVec v, BFloat16* p, int64_t n) {
  hn::StoreN(Narrow(v, p), BFloat16Tag(), p, static_cast<size_t>(n));
}

// Two vectors to 2 * kLanes consecutive elements: narrow formats fill whole registers. kStream
// writes past the caches; p must then be aligned to kStreamAlign bytes.
constexpr int64_t kStreamAlign = kLanes * static_cast<int64_t>(sizeof(float));

template <bool kStream>
KPT_SIMD_INLINE void StorePair(FloatVec a, FloatVec b, float* p) {
  if constexpr (kStream) {
    hn::Stream(a, FloatTag(), p);
    hn::Stream(b, FloatTag(), p + kLanes);
  } else {
    hn::StoreU(a, FloatTag(), p);
    hn::StoreU(b, FloatTag(), p + kLanes);
  }
}
template <bool kStream>
KPT_SIMD_INLINE void StorePair(FloatVec a, FloatVec b, Half* p) {
  const hn::Twice<HalfTag> d;
  const auto v = hn::Combine(d, Narrow(b, p), Narrow(a, p));
  if constexpr (kStream) {
    hn::Stream(v, d, p);
  } else {
    hn::StoreU(v, d, p);
  }
}
template <bool kStream>
KPT_SIMD_INLINE void StorePair(FloatVec a, FloatVec b, BFloat16* p) {
  const hn::Twice<BFloat16Tag> d;
#if defined(__AVX512BF16__)
  const hn::Vec<hn::Twice<BFloat16Tag>> v{
      reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(b.raw, a.raw))};
#else
  const auto v = hn::OrderedDemote2To(d, a, b);
#endif
  if constexpr (kStream) {
    hn::Stream(v, d, p);
  } else {
    hn::StoreU(v, d, p);
  }
}

// Two vectors from 2 * kLanes consecutive elements, and back, in the order that costs least: even
// and odd elements of bfloat16 where the hardware rounds to it, else the first and the second half.
template <class T>
#if defined(__AVX512BF16__)
constexpr bool kEvenOdd = std::is_same_v<T, BFloat16>;
#else
constexpr bool kEvenOdd = false;
#endif

template <int kWhich, class T>
KPT_SIMD_INLINE FloatVec LoadOne(const T* p) {
  if constexpr (kEvenOdd<T>) {
    const hn::RebindToUnsigned<FloatTag> du;
    const auto v = hn::LoadU(du, reinterpret_cast<const uint32_t*>(p));
    return hn::BitCast(FloatTag(),
                       kWhich == 0 ? hn::ShiftLeft<16>(v) : hn::And(v, hn::Set(du, 0xffff0000u)));
  } else {
    return Load(p + kWhich * kLanes);
  }
}

template <class T>
KPT_SIMD_INLINE void LoadBoth(const T* p, FloatVec* a, FloatVec* b) {
  *a = LoadOne<0>(p);
  *b = LoadOne<1>(p);
}

template <bool kStream, class T>
KPT_SIMD_INLINE void StoreBoth(FloatVec a, FloatVec b, T* p) {
#if defined(__AVX512BF16__)
  if constexpr (kEvenOdd<T>) {
    alignas(64) static constexpr uint16_t kZip[32] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,
                                                      21, 6,  22, 7,  23, 8,  24, 9,  25, 10, 26,
                                                      11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    const hn::Twice<BFloat16Tag> d;
    const __m512i halves = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(b.raw, a.raw));
    const hn::Vec<hn::Twice<BFloat16Tag>> v{
        _mm512_permutexvar_epi16(_mm512_load_si512(kZip), halves)};
    if constexpr (kStream) {
      hn::Stream(v, d, p);
    } else {
      hn::StoreU(v, d, p);
    }
    return;
  }
#endif
  StorePair<kStream>(a, b, p);
}

// Asks for n elements from p on, to arrive in the second-level cache. What a compute-bound pass
// over one row asks for, the first pass over the next need not wait for: the hardware's own
// prefetching stops where a row has been read.
template <class T>
KPT_SIMD_INLINE void PrefetchRow(const T* p, int64_t n) {
  constexpr int64_t kLine = 64 / static_cast<int64_t>(sizeof(T));
  for (int64_t i = 0; i < n; i += kLine) __builtin_prefetch(p + i, 0, 2);
}

// Elements before p + i is aligned for streaming stores, at most n.
template <class T>
KPT_SIMD_INLINE int64_t StreamPrefix(const T* p, int64_t n) {
  const int64_t past = static_cast<int64_t>(reinterpret_cast<uintptr_t>(p) % kStreamAlign);
  const int64_t prefix = past == 0 ? 0 : (kStreamAlign - past) / static_cast<int64_t>(sizeof(T));
  return prefix < n ? prefix : n;
}

// out[i] = f(in...[i]) for i in [0, n), vector by vector; f maps float vectors to a float vector.
// Every element goes through the same arithmetic wherever it lies, so results do not depend on how
// a row is cut. `out` may be one of the inputs.
template <bool kStream, class T, class F, class... In>
KPT_SIMD_INLINE void MapRow(const F& f, int64_t n, T* out, const In*... in) {
  int64_t i = 0;
  if constexpr (kStream) {
    for (const int64_t prefix = StreamPrefix(out, n); i < prefix; i += kLanes) {
      const int64_t m = prefix - i < kLanes ? prefix - i : kLanes;
      StoreN(f(LoadN(in + i, m)...), out + i, m);
    }
    i = StreamPrefix(out, n);
  }
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    if constexpr ((std::is_same_v<In, T> && ...)) {
      StoreBoth<kStream>(f(LoadOne<0>(in + i)...), f(LoadOne<1>(in + i)...), out + i);
    } else {
      StorePair<kStream>(f(Load(in + i)...), f(Load(in + i + kLanes)...), out + i);
    }
  }
  for (; i < n; i += kLanes) {
    const int64_t m = n - i < kLanes ? n - i : kLanes;
    StoreN(f(LoadN(in + i, m)...), out + i, m);
  }
}

}  // namespace kpt::cpu::KPT_SIMD_NS
HWY_AFTER_NAMESPACE();

#endif  // KPT_KERNELS_BASE_SIMD_IO_H_

// Parameters that many rows share (weights, tables): widened once to floats in the order that
// LoadBoth gives rows, and narrowed back from it.
//
// Included by files that are compiled once per instruction set; see simd_io.h.
#ifndef KPT_KERNELS_BASE_SIMD_WIDEN_H_
#define KPT_KERNELS_BASE_SIMD_WIDEN_H_

#include "kernels/base/dtype.h"
#include "kernels/base/simd_io.h"

HWY_BEFORE_NAMESPACE();
namespace kpt::cpu::KPT_SIMD_NS {
namespace {

// n parameters from `data` as floats in `buffer`, in the order that LoadBoth gives rows of T.
template <class T, class P>
void Widen(const P* data, int64_t n, float* buffer) {
  const FloatTag df;
  int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    FloatVec a = Load(data + i), b = Load(data + i + kLanes);
    if constexpr (kEvenOdd<T> && kEvenOdd<P>) {
      LoadBoth(data + i, &a, &b);
    } else if constexpr (kEvenOdd<T>) {
      const FloatVec even = hn::ConcatEven(df, b, a);
      b = hn::ConcatOdd(df, b, a);
      a = even;
    }
    hn::StoreU(a, df, buffer + i);
    hn::StoreU(b, df, buffer + i + kLanes);
  }
  for (; i < n; i += kLanes) {
    const int64_t m = n - i < kLanes ? n - i : kLanes;
    StoreN(LoadN(data + i, m), buffer + i, m);
  }
}

// The reverse: n floats in the order of rows of T to consecutive elements of P.
template <class T, class P>
void Narrowed(const float* data, int64_t n, P* out) {
  const FloatTag df;
  int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    const FloatVec a = Load(data + i), b = Load(data + i + kLanes);
    if constexpr (kEvenOdd<T> && !kEvenOdd<P>) {
      StorePair<false>(hn::InterleaveWholeLower(df, a, b), hn::InterleaveWholeUpper(df, a, b),
                       out + i);
    } else {
      StoreBoth<false>(a, b, out + i);
    }
  }
  for (; i < n; i += kLanes) {
    const int64_t m = n - i < kLanes ? n - i : kLanes;
    StoreN(LoadN(data + i, m), out + i, m);
  }
}

// Elements [begin, begin + n) of data, or `absent` for each where that is null: in place when they
// are floats as needed, else in `buffer`.
template <class T>
const float* Widened(const void* data, DType dtype, float absent, int64_t begin, int64_t n,
                     float* buffer) {
  if (data == nullptr) {
    for (int64_t i = 0; i < n; ++i) buffer[i] = absent;
    return buffer;
  }
  switch (dtype) {
    case DType::kFloat32:
      if constexpr (!kEvenOdd<T>) return static_cast<const float*>(data) + begin;
      Widen<T>(static_cast<const float*>(data) + begin, n, buffer);
      return buffer;
    case DType::kFloat16:
      Widen<T>(static_cast<const Half*>(data) + begin, n, buffer);
      return buffer;
    default:
      Widen<T>(static_cast<const BFloat16*>(data) + begin, n, buffer);
      return buffer;
  }
}

}  // namespace
}  // namespace kpt::cpu::KPT_SIMD_NS
HWY_AFTER_NAMESPACE();

#endif  // KPT_KERNELS_BASE_SIMD_WIDEN_H_

// Pairs of a row turned by angles: the arithmetic of rotary position embedding.
//
// Included by files that are compiled once per instruction set; see simd_io.h.
#ifndef KPT_KERNELS_BASE_SIMD_ROTATE_H_
#define KPT_KERNELS_BASE_SIMD_ROTATE_H_

#include "kernels/base/simd_io.h"

HWY_BEFORE_NAMESPACE();
namespace kpt::cpu::KPT_SIMD_NS {
namespace {

// (a, b) turned by the angle whose cosine and sine are c and s.
struct Turned {
  FloatVec a, b;
};
KPT_SIMD_INLINE Turned Turn(FloatVec a, FloatVec b, FloatVec c, FloatVec s) {
  return {hn::MulSub(a, c, hn::Mul(b, s)), hn::MulAdd(a, s, hn::Mul(b, c))};
}

template <class T>
KPT_SIMD_INLINE void Store2(bool stream, FloatVec a, FloatVec b, T* p) {
  if (stream) {
    StoreBoth<true>(a, b, p);
  } else {
    StoreBoth<false>(a, b, p);
  }
}

// n pairs (a[i], b[i]).
template <class T>
[[maybe_unused]] void TurnHalves(const T* a, const T* b, const float* cos, const float* sin,
                                 int64_t n, bool stream, T* out_a, T* out_b) {
  int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    FloatVec a0, a1, b0, b1;
    LoadBoth(a + i, &a0, &a1);
    LoadBoth(b + i, &b0, &b1);
    const Turned t0 = Turn(a0, b0, Load(cos + i), Load(sin + i));
    const Turned t1 = Turn(a1, b1, Load(cos + i + kLanes), Load(sin + i + kLanes));
    Store2(stream, t0.a, t1.a, out_a + i);
    Store2(stream, t0.b, t1.b, out_b + i);
  }
  for (; i < n; i += kLanes) {
    const int64_t m = n - i < kLanes ? n - i : kLanes;
    const Turned t = Turn(LoadN(a + i, m), LoadN(b + i, m), LoadN(cos + i, m), LoadN(sin + i, m));
    StoreN(t.a, out_a + i, m);
    StoreN(t.b, out_b + i, m);
  }
}

// n pairs (x[2 i], x[2 i + 1]); the tables in their own order.
template <class T>
[[maybe_unused]] void TurnNeighbours(const T* x, const float* cos, const float* sin, int64_t n,
                                     bool stream, T* out) {
  const FloatTag df;
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    FloatVec a, b;
    LoadBoth(x + 2 * i, &a, &b);
    if constexpr (kEvenOdd<T>) {  // read in pairs, and written so
      const Turned t = Turn(a, b, Load(cos + i), Load(sin + i));
      Store2(stream, t.a, t.b, out + 2 * i);
    } else {
      const Turned t =
          Turn(hn::ConcatEven(df, b, a), hn::ConcatOdd(df, b, a), Load(cos + i), Load(sin + i));
      Store2(stream, hn::InterleaveWholeLower(df, t.a, t.b), hn::InterleaveWholeUpper(df, t.a, t.b),
             out + 2 * i);
    }
  }
  if (i < n) {
    const int64_t m = n - i;
    const int64_t low = 2 * m < kLanes ? 2 * m : kLanes, high = 2 * m - low;
    const FloatVec a = LoadN(x + 2 * i, low), b = LoadN(x + 2 * i + low, high);
    const Turned t = Turn(hn::ConcatEven(df, b, a), hn::ConcatOdd(df, b, a), LoadN(cos + i, m),
                          LoadN(sin + i, m));
    StoreN(hn::InterleaveWholeLower(df, t.a, t.b), out + 2 * i, low);
    StoreN(hn::InterleaveWholeUpper(df, t.a, t.b), out + 2 * i + low, high);
  }
}

}  // namespace
}  // namespace kpt::cpu::KPT_SIMD_NS
HWY_AFTER_NAMESPACE();

#endif  // KPT_KERNELS_BASE_SIMD_ROTATE_H_

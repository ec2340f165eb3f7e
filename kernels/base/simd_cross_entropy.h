// Cross entropy over a piece of a row of logits, portable SIMD. The row's state and its gradient's
// plan are those of cross_entropy_rows.h.
//
// Included by files compiled once per instruction set; see simd_io.h.
#ifndef KPT_KERNELS_BASE_SIMD_CROSS_ENTROPY_H_
#define KPT_KERNELS_BASE_SIMD_CROSS_ENTROPY_H_

#include <cmath>
#include <limits>

#include "kernels/base/cross_entropy_rows.h"
#include "kernels/base/simd_io.h"
#include "kernels/base/simd_math.h"

HWY_BEFORE_NAMESPACE();
namespace kpt::cpu::KPT_SIMD_NS {

// The largest of x[0 .. n). NaN may be lost here: the exponentials find it again.
template <class T>
KPT_SIMD_INLINE float LargestOf(const T* x, int64_t n) {
  const FloatTag df;
  const FloatVec lowest = Set(-std::numeric_limits<float>::infinity());
  FloatVec m0 = lowest, m1 = lowest;
  int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    FloatVec a, b;
    LoadBoth(x + i, &a, &b);
    m0 = hn::Max(m0, a);
    m1 = hn::Max(m1, b);
  }
  for (; i < n; i += kLanes) {
    const int64_t m = n - i < kLanes ? n - i : kLanes;
    const auto some = hn::FirstN(df, static_cast<size_t>(m));
    m0 = hn::Max(m0, hn::IfThenElse(some, LoadN(x + i, m), lowest));
  }
  return hn::ReduceMax(df, hn::Max(m0, m1));
}

// Adds exp(x - shift) to row->sum, and under label smoothing x - shift to row->total.
template <bool kTotal, class T>
KPT_SIMD_INLINE void AddExponentials(const T* x, int64_t n, float shift, CrossEntropyRow* row) {
  const FloatTag df;
  const FloatVec by = Set(shift);
  FloatVec s0 = hn::Zero(df), s1 = s0, t0 = s0, t1 = s0;
  const auto add = [&](FloatVec v, FloatVec* s, FloatVec* t) HWY_ATTR {
    v = hn::Sub(v, by);
    if constexpr (kTotal) *t = hn::Add(*t, v);
    *s = hn::Add(*s, ExpBelowMax<false>(v));
  };
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    FloatVec a, b, c, d;
    LoadBoth(x + i, &a, &b);
    LoadBoth(x + i + 2 * kLanes, &c, &d);
    add(a, &s0, &t0);
    add(b, &s1, &t1);
    add(c, &s0, &t0);
    add(d, &s1, &t1);
  }
  for (; i < n; i += kLanes) {
    const int64_t m = n - i < kLanes ? n - i : kLanes;
    const auto some = hn::FirstN(df, static_cast<size_t>(m));
    const FloatVec v = hn::Sub(LoadN(x + i, m), by);
    if constexpr (kTotal) t0 = hn::Add(t0, hn::IfThenElseZero(some, v));
    s0 = hn::Add(s0, hn::IfThenElseZero(some, ExpBelowMax<false>(v)));
  }
  row->sum += static_cast<double>(hn::ReduceSum(df, hn::Add(s0, s1)));
  if constexpr (kTotal) row->total += static_cast<double>(hn::ReduceSum(df, hn::Add(t0, t1)));
}

// Takes x[0 .. n), the row's columns from `first` on, into the row: the online logsumexp of Milakov
// and Gimelshein (2018), piece by piece, each read from memory once.
template <bool kTotal, class T>
KPT_SIMD_INLINE void UpdateRow(const T* x, int64_t first, int64_t n, CrossEntropyRow* row) {
  constexpr int64_t kPiece = 2048;  // stays in the first-level cache for its second reading
  constexpr float kLowest = -std::numeric_limits<float>::infinity();
  for (int64_t i = 0; i < n; i += kPiece) {
    const int64_t count = n - i < kPiece ? n - i : kPiece;
    const float most = LargestOf(x + i, count);
    if (most > row->max) {
      const double step = static_cast<double>(row->max) - static_cast<double>(most);
      row->sum *= exp(step);
      if (kTotal && first + i > 0) row->total += static_cast<double>(first + i) * step;
      row->max = most;
    }
    // As long as all are -inf, they count as exp(-inf) and not as exp(-inf + inf).
    AddExponentials<kTotal>(x + i, count, row->max == kLowest ? 0.0f : row->max, row);
  }
}

// The gradient of x[0 .. n), the row's columns from `first` on. `out` may start where x does, of
// the same or a narrower type.
template <bool kStream, class T, class X>
KPT_SIMD_INLINE void GradientRow(const CrossEntropyGradient& g, const X* x, int64_t first,
                                 int64_t n, T* out) {
  if (g.target < 0) {
    MapRow<kStream>([](FloatVec) HWY_ATTR { return hn::Zero(FloatTag()); }, n, out, x);
    return;
  }
  const FloatVec lse = Set(g.lse), grad_loss = Set(g.grad_loss), grad_lse = Set(g.grad_lse);
  const FloatVec uniform = Set(g.uniform);
  const auto p = [=](FloatVec v) HWY_ATTR { return ExpBelowMax<false>(hn::Sub(v, lse)); };
  const auto other = [=](FloatVec v) HWY_ATTR {
    const FloatVec e = p(v);
    return hn::MulAdd(grad_lse, e, hn::MulSub(grad_loss, e, uniform));
  };
  const int64_t at = g.target - first;
  const bool here = at >= 0 && at < n;
  const FloatVec target = here ? LoadN(x + at, 1) : hn::Zero(FloatTag());
  MapRow<kStream>(other, n, out, x);
  if (!here) return;
  const FloatVec e = p(target);
  const FloatVec loss = hn::Sub(hn::MulSub(grad_loss, e, uniform), Set(g.on_target));
  StoreN(hn::MulAdd(grad_lse, e, loss), out + at, 1);
}

}  // namespace kpt::cpu::KPT_SIMD_NS
HWY_AFTER_NAMESPACE();

#endif  // KPT_KERNELS_BASE_SIMD_CROSS_ENTROPY_H_

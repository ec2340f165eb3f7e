// Rows, weighted and added. Included by files compiled once per instruction set; see simd_io.h.
#ifndef KPT_KERNELS_BASE_SIMD_WEIGHTED_SUM_H_
#define KPT_KERNELS_BASE_SIMD_WEIGHTED_SUM_H_

#include <cstdint>

#include "kernels/base/simd_io.h"

HWY_BEFORE_NAMESPACE();
namespace kpt::cpu::KPT_SIMD_NS {

// out[c] = sum over i < sources of weight * row[c], in float and in order, rounded once. `source(i,
// &weight)` returns a row; nullptr: there is none.
template <class Source, class Out>
KPT_SIMD_INLINE void WeightedSum(int64_t sources, int64_t cols, const Source& source, Out* out) {
  int64_t c = 0;
  for (; c + 2 * kLanes <= cols; c += 2 * kLanes) {
    FloatVec a = hn::Zero(FloatTag()), b = a;
    for (int64_t i = 0; i < sources; ++i) {
      float weight;
      const auto* row = source(i, &weight);
      if (row == nullptr) continue;
      a = hn::MulAdd(hn::Set(FloatTag(), weight), Load(row + c), a);
      b = hn::MulAdd(hn::Set(FloatTag(), weight), Load(row + c + kLanes), b);
    }
    StorePair<false>(a, b, out + c);
  }
  for (; c < cols; c += kLanes) {
    const int64_t n = cols - c < kLanes ? cols - c : kLanes;
    FloatVec a = hn::Zero(FloatTag());
    for (int64_t i = 0; i < sources; ++i) {
      float weight;
      const auto* row = source(i, &weight);
      if (row == nullptr) continue;
      a = hn::MulAdd(hn::Set(FloatTag(), weight), LoadN(row + c, n), a);
    }
    StoreN(a, out + c, n);
  }
}

}  // namespace kpt::cpu::KPT_SIMD_NS
HWY_AFTER_NAMESPACE();

#endif  // KPT_KERNELS_BASE_SIMD_WEIGHTED_SUM_H_

// Random bits that depend on a seed and a position alone: Philox4x32-10 (Salmon, Moraes, Dror and
// Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011), the generator of torch's and
// Triton's GPU kernels.
//
// Included by files compiled once per instruction set; see simd_io.h.
#ifndef KPT_KERNELS_BASE_SIMD_PHILOX_H_
#define KPT_KERNELS_BASE_SIMD_PHILOX_H_

#include "kernels/base/simd_io.h"

HWY_BEFORE_NAMESPACE();
namespace kpt::cpu::KPT_SIMD_NS {

// Low and high words of the products with a constant.
KPT_SIMD_INLINE void MultiplyWide(hn::Vec<hn::RebindToUnsigned<FloatTag>> a, uint32_t by,
                                  hn::Vec<hn::RebindToUnsigned<FloatTag>>* low,
                                  hn::Vec<hn::RebindToUnsigned<FloatTag>>* high) {
  const hn::RebindToUnsigned<FloatTag> du;
  const auto factor = hn::Set(du, by);
  const auto even = hn::BitCast(du, hn::MulEven(a, factor));
  const auto odd = hn::BitCast(du, hn::MulOdd(a, factor));
  *low = hn::InterleaveEven(du, even, odd);
  *high = hn::InterleaveOdd(du, even, odd);
}

// Words of kPhiloxLanes consecutive counters: 4 * kLanes words from word 4 * counter on, where the
// 128-bit counter is (counter, 0) and the key is the seed.
KPT_SIMD_INLINE void PhiloxWords(uint64_t seed, uint64_t counter, uint32_t* words) {
  const hn::RebindToUnsigned<FloatTag> du;
  const auto low = hn::Set(du, static_cast<uint32_t>(counter));
  auto x0 = hn::Add(low, hn::Iota(du, 0));
  const auto carry = hn::VecFromMask(du, hn::Lt(x0, low));  // all ones, -1, where it wrapped
  auto x1 = hn::Sub(hn::Set(du, static_cast<uint32_t>(counter >> 32)), carry);
  auto x2 = hn::Zero(du);
  auto x3 = x2;
  uint32_t key0 = static_cast<uint32_t>(seed);
  uint32_t key1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    auto low0 = x0, high0 = x0, low1 = x0, high1 = x0;
    MultiplyWide(x0, 0xD2511F53u, &low0, &high0);
    MultiplyWide(x2, 0xCD9E8D57u, &low1, &high1);
    x0 = hn::Xor(hn::Xor(high1, x1), hn::Set(du, key0));
    x1 = low1;
    x2 = hn::Xor(hn::Xor(high0, x3), hn::Set(du, key1));
    x3 = low0;
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  hn::StoreInterleaved4(x0, x1, x2, x3, du, words);
}

}  // namespace kpt::cpu::KPT_SIMD_NS
HWY_AFTER_NAMESPACE();

#endif  // KPT_KERNELS_BASE_SIMD_PHILOX_H_

// Random bits that depend on a seed and a position alone, on a GPU: Philox4x32-10, the words that
// simd_philox.h makes on a CPU.
#ifndef KPT_KERNELS_BASE_GPU_PHILOX_H_
#define KPT_KERNELS_BASE_GPU_PHILOX_H_

#include "kernels/base/gpu/vendor.h"

namespace kpt::gpu {

// Words 4 * counter to 4 * counter + 3: the 128-bit counter is (counter, 0), the key the seed.
KPT_DEVICE void PhiloxWords4(uint64_t seed, uint64_t counter, uint32_t* words) {
  uint32_t x0 = static_cast<uint32_t>(counter), x1 = static_cast<uint32_t>(counter >> 32);
  uint32_t x2 = 0, x3 = 0;
  uint32_t key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = static_cast<uint64_t>(x0) * 0xD2511F53u;
    const uint64_t b = static_cast<uint64_t>(x2) * 0xCD9E8D57u;
    x0 = static_cast<uint32_t>(b >> 32) ^ x1 ^ key0;
    x1 = static_cast<uint32_t>(b);
    x2 = static_cast<uint32_t>(a >> 32) ^ x3 ^ key1;
    x3 = static_cast<uint32_t>(a);
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  words[0] = x0;
  words[1] = x1;
  words[2] = x2;
  words[3] = x3;
}

// Words `first` to `first` + 7.
KPT_DEVICE void PhiloxWords8(uint64_t seed, uint64_t first, uint32_t (&words)[8]) {
  uint32_t w[12];
  const uint64_t counter = first / 4;
  PhiloxWords4(seed, counter, w);
  PhiloxWords4(seed, counter + 1, w + 4);
  const uint32_t skip = static_cast<uint32_t>(first) % 4;
  if (skip != 0) {
    PhiloxWords4(seed, counter + 2, w + 8);
    // By 2 and by 1 rather than by an index, which would put the words into memory.
#pragma unroll
    for (int i = 0; i < 9; ++i) w[i] = (skip & 2) != 0 ? w[i + 2] : w[i];
#pragma unroll
    for (int i = 0; i < 8; ++i) w[i] = (skip & 1) != 0 ? w[i + 1] : w[i];
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) words[i] = w[i];
}

}  // namespace kpt::gpu

#endif  // KPT_KERNELS_BASE_GPU_PHILOX_H_

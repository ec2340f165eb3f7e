#include <immintrin.h>

#include "kernels/probe/cpu/probe_loops.h"

#define KPT_PROBE_KEEP(v) __asm__ volatile("" : "+v"(v))

namespace kpt::cpu::avx512_bf16 {
namespace {

constexpr int kSums = 16;

}  // namespace

double Bf16Loop(int64_t iterations) {
  __m512 sum[kSums];
  for (__m512& s : sum) s = _mm512_setzero_ps();
  __m512i a = _mm512_set1_epi32(0x3a803a80);  // 2^-10 twice
  for (int64_t i = 0; i < iterations; ++i) {
    KPT_PROBE_KEEP(a);
#pragma GCC unroll 16
    for (int j = 0; j < kSums; ++j) {
      sum[j] =
          _mm512_dpbf16_ps(sum[j], reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(a));
    }
  }
  for (__m512& s : sum) KPT_PROBE_KEEP(s);
  return 32.0 * 2 * kSums * iterations;
}

double Int8Loop(int64_t iterations) {
  __m512i sum[kSums];
  for (__m512i& s : sum) s = _mm512_setzero_si512();
  __m512i a = _mm512_set1_epi8(3);
  for (int64_t i = 0; i < iterations; ++i) {
    KPT_PROBE_KEEP(a);
#pragma GCC unroll 16
    for (int j = 0; j < kSums; ++j) sum[j] = _mm512_dpbusd_epi32(sum[j], a, a);
  }
  for (__m512i& s : sum) KPT_PROBE_KEEP(s);
  return 64.0 * 2 * kSums * iterations;
}

}  // namespace kpt::cpu::avx512_bf16

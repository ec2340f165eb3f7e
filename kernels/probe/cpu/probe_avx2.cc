#include <immintrin.h>

#include "kernels/probe/cpu/probe_loops.h"

#define KPT_PROBE_KEEP(v) __asm__ volatile("" : "+x"(v))

namespace kpt::cpu::avx2 {
namespace {

// Two units with a latency of four or five: ten sums keep both busy within the 16 registers.
constexpr int kSums = 10;

}  // namespace

double Fp32Loop(int64_t iterations) {
  __m256 sum[kSums];
  for (__m256& s : sum) s = _mm256_setzero_ps();
  __m256 a = _mm256_set1_ps(1e-3f);
  for (int64_t i = 0; i < iterations; ++i) {
    KPT_PROBE_KEEP(a);
#pragma GCC unroll 10
    for (int j = 0; j < kSums; ++j) sum[j] = _mm256_fmadd_ps(sum[j], a, a);
  }
  for (__m256& s : sum) KPT_PROBE_KEEP(s);
  return 8.0 * 2 * kSums * iterations;
}

double Int8Loop(int64_t iterations) {
  __m256i sum[kSums];
  for (__m256i& s : sum) s = _mm256_setzero_si256();
  __m256i a = _mm256_set1_epi16(3);
  for (int64_t i = 0; i < iterations; ++i) {
#pragma GCC unroll 10
    for (int j = 0; j < kSums; ++j) {
      KPT_PROBE_KEEP(a);  // else one product serves all the sums
      sum[j] = _mm256_add_epi32(sum[j], _mm256_madd_epi16(a, a));
    }
  }
  for (__m256i& s : sum) KPT_PROBE_KEEP(s);
  return 16.0 * 2 * kSums * iterations;
}

uint64_t ReadLoop(const char* p, int64_t bytes) {
  __m256i sum[8];
  for (__m256i& s : sum) s = _mm256_setzero_si256();
  for (int64_t i = 0; i < bytes; i += 256) {
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) {
      const char* at = p + i + 32 * j;
      if (j % 2 == 0) _mm_prefetch(at + 4096, _MM_HINT_T0);
      sum[j] = _mm256_xor_si256(sum[j], _mm256_load_si256(reinterpret_cast<const __m256i*>(at)));
    }
  }
  for (int j = 1; j < 8; ++j) sum[0] = _mm256_xor_si256(sum[0], sum[j]);
  return _mm256_extract_epi64(sum[0], 0) ^ _mm256_extract_epi64(sum[0], 1) ^
         _mm256_extract_epi64(sum[0], 2) ^ _mm256_extract_epi64(sum[0], 3);
}

void CopyLoop(const char* from, char* to, int64_t bytes, bool streaming) {
  const __m256i* src = reinterpret_cast<const __m256i*>(from);
  __m256i* dst = reinterpret_cast<__m256i*>(to);
  const int64_t n = bytes / 32;
  if (streaming) {
    for (int64_t i = 0; i < n; i += 4) {
      _mm_prefetch(reinterpret_cast<const char*>(src + i) + 4096, _MM_HINT_T0);
      _mm_prefetch(reinterpret_cast<const char*>(src + i) + 4096 + 64, _MM_HINT_T0);
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) _mm256_stream_si256(dst + i + j, _mm256_load_si256(src + i + j));
    }
    _mm_sfence();
  } else {
    for (int64_t i = 0; i < n; i += 4) {
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) _mm256_store_si256(dst + i + j, _mm256_load_si256(src + i + j));
    }
  }
}

}  // namespace kpt::cpu::avx2

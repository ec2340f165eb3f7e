#include <immintrin.h>

#include "kernels/probe/cpu/probe_loops.h"

#define KPT_PROBE_KEEP(v) __asm__ volatile("" : "+v"(v))

namespace kpt::cpu::avx512 {
namespace {

constexpr int kSums = 16;

// Several streams a few pages apart keep more rows of the memory open than one stream does.
constexpr int kStreams = 4;
constexpr int64_t kStreamBytes = 8192;
constexpr int64_t kAhead = 32768;

}  // namespace

double Fp32Loop(int64_t iterations) {
  __m512 sum[kSums];
  for (__m512& s : sum) s = _mm512_setzero_ps();
  __m512 a = _mm512_set1_ps(1e-3f);
  for (int64_t i = 0; i < iterations; ++i) {
    KPT_PROBE_KEEP(a);
#pragma GCC unroll 16
    for (int j = 0; j < kSums; ++j) sum[j] = _mm512_fmadd_ps(sum[j], a, a);
  }
  for (__m512& s : sum) KPT_PROBE_KEEP(s);
  return 16.0 * 2 * kSums * iterations;
}

double Int8Loop(int64_t iterations) {
  __m512i sum[kSums];
  for (__m512i& s : sum) s = _mm512_setzero_si512();
  __m512i a = _mm512_set1_epi16(3);
  for (int64_t i = 0; i < iterations; ++i) {
#pragma GCC unroll 16
    for (int j = 0; j < kSums; ++j) {
      KPT_PROBE_KEEP(a);  // else one product serves all the sums
      sum[j] = _mm512_add_epi32(sum[j], _mm512_madd_epi16(a, a));
    }
  }
  for (__m512i& s : sum) KPT_PROBE_KEEP(s);
  return 32.0 * 2 * kSums * iterations;
}

uint64_t ReadLoop(const char* p, int64_t bytes) {
  __m512i sum[2 * kStreams];
  for (__m512i& s : sum) s = _mm512_setzero_si512();
  for (int64_t block = 0; block < bytes; block += kStreams * kStreamBytes) {
    const char* base = p + block;
    for (int64_t i = 0; i < kStreamBytes; i += 128) {
#pragma GCC unroll 8
      for (int j = 0; j < 2 * kStreams; ++j) {
        const char* at = base + (j / 2) * kStreamBytes + i + (j % 2) * 64;
        // In the order of addresses, which the hardware's own prefetchers then follow.
        _mm_prefetch(base + kAhead + i * kStreams + j * 64, _MM_HINT_T1);
        sum[j] = _mm512_xor_si512(sum[j], _mm512_load_si512(at));
      }
    }
  }
  for (int j = 1; j < 2 * kStreams; ++j) sum[0] = _mm512_xor_si512(sum[0], sum[j]);
  alignas(64) uint64_t lanes[8];
  _mm512_store_si512(lanes, sum[0]);
  uint64_t all = 0;
  for (uint64_t lane : lanes) all ^= lane;
  return all;
}

void CopyLoop(const char* from, char* to, int64_t bytes, bool streaming) {
  if (streaming) {
    for (int64_t i = 0; i < bytes; i += 256) {
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        _mm_prefetch(from + i + 8192 + 64 * j, _MM_HINT_T0);
        _mm512_stream_si512(reinterpret_cast<__m512i*>(to + i + 64 * j),
                            _mm512_load_si512(from + i + 64 * j));
      }
    }
    _mm_sfence();
  } else {
    for (int64_t i = 0; i < bytes; i += 256) {
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        _mm512_store_si512(to + i + 64 * j, _mm512_load_si512(from + i + 64 * j));
      }
    }
  }
}

}  // namespace kpt::cpu::avx512

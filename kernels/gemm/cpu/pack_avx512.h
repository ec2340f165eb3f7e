// Packing of dense rows into panel groups, for files compiled with AVX-512 (F, BW).
// Everything has internal linkage: files built for different ISA levels must not share copies.
#ifndef KPT_KERNELS_GEMM_CPU_PACK_AVX512_H_
#define KPT_KERNELS_GEMM_CPU_PACK_AVX512_H_

#include <immintrin.h>

#include <cstdint>

namespace kpt::cpu {
namespace {

// Transposes 16 x 16 dwords: load(i) gives row i, store(j, v) takes column j.
template <class Load, class Store>
[[maybe_unused]] inline __attribute__((always_inline)) void Transpose16x16(const Load& load,
                                                                           const Store& store) {
  __m512i r[16], t[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) r[i] = load(i);
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
    r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
    r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
    r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const __m512i a = _mm512_shuffle_i32x4(r[i], r[4 + i], 0x88);
    const __m512i b = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0x88);
    const __m512i c = _mm512_shuffle_i32x4(r[i], r[4 + i], 0xdd);
    const __m512i d = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0xdd);
    store(i, _mm512_shuffle_i32x4(a, b, 0x88));
    store(8 + i, _mm512_shuffle_i32x4(a, b, 0xdd));
    store(4 + i, _mm512_shuffle_i32x4(c, d, 0x88));
    store(12 + i, _mm512_shuffle_i32x4(c, d, 0xdd));
  }
}

// The first n bytes at p, the rest of the vector zero; reads nothing beyond them.
[[maybe_unused]] inline __m512i LoadBytes(const char* p, int64_t n) {
  if (n >= 64) return _mm512_loadu_si512(p);
  if (n <= 0) return _mm512_setzero_si512();
  return _mm512_maskz_loadu_epi8((uint64_t{1} << n) - 1, p);
}

// Packs `valid` (at most 16) rows of `bytes` bytes, `stride` bytes apart, into a group at dst:
// dword d of row i goes to dst[d * ld + i], for d < depth (a multiple of 16). What lies beyond the
// rows and their bytes becomes zero.
[[maybe_unused]] inline void PackGroup(const char* rows, int64_t stride, int64_t valid,
                                       int64_t bytes, int64_t depth, uint32_t* dst, int64_t ld) {
  // Sixteen interleaved row streams are too many for the hardware prefetcher.
  constexpr int64_t kAhead = 512;
  int64_t d = 0;
  if (valid >= 16) {
    for (; d < depth && (d + 16) * 4 <= bytes; d += 16) {
      Transpose16x16(
          [&](int i) __attribute__((always_inline)) {
            const char* p = rows + i * stride + d * 4;
            _mm_prefetch(p + kAhead, _MM_HINT_T0);
            return _mm512_loadu_si512(p);
          },
          [&](int j, __m512i v)
              __attribute__((always_inline)) { _mm512_store_si512(dst + (d + j) * ld, v); });
    }
  }
  for (; d < depth; d += 16) {
    Transpose16x16(
        [&](int i) __attribute__((always_inline)) {
          return i < valid ? LoadBytes(rows + i * stride + d * 4, bytes - d * 4)
                           : _mm512_setzero_si512();
        },
        [&](int j, __m512i v)
            __attribute__((always_inline)) { _mm512_store_si512(dst + (d + j) * ld, v); });
  }
}

// The sums of four vectors, to out[0..3].
[[maybe_unused]] inline void SumFour(const __m512* a, float* out) {
  const __m512 u = _mm512_add_ps(_mm512_unpacklo_ps(a[0], a[1]), _mm512_unpackhi_ps(a[0], a[1]));
  const __m512 v = _mm512_add_ps(_mm512_unpacklo_ps(a[2], a[3]), _mm512_unpackhi_ps(a[2], a[3]));
  const __m512d ud = _mm512_castps_pd(u);
  const __m512d vd = _mm512_castps_pd(v);
  const __m512 s = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(ud, vd)),
                                 _mm512_castpd_ps(_mm512_unpackhi_pd(ud, vd)));
  const __m256 h = _mm256_add_ps(_mm512_castps512_ps256(s), _mm512_extractf32x8_ps(s, 1));
  _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1)));
}

// Packs `k` rows of `valid` (at most 64) 16-bit values, `stride` bytes apart: values of rows 2 d
// and 2 d + 1 become dword d of their column, at dst[d * ld + column], for d < depth. Rows from k
// on, and columns up to a multiple of 16, count as zeros.
[[maybe_unused]] inline void PackRowPairs(const char* rows, int64_t stride, int64_t valid,
                                          int64_t k, int64_t depth, uint32_t* dst, int64_t ld) {
  constexpr int64_t kAhead = 8;  // dword rows: each row of the source lies in a page of its own
  const __m512i interleave =
      _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6,
                       37, 5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
  for (int64_t d = 0; d < depth; ++d) {
    const char* even = rows + 2 * d * stride;
    const char* odd = even + stride;
    const bool has_even = 2 * d < k;
    const bool has_odd = 2 * d + 1 < k;
    for (int64_t b = 0; b < valid * 2; b += 64) {
      _mm_prefetch(even + 2 * kAhead * stride + b, _MM_HINT_T0);
      _mm_prefetch(odd + 2 * kAhead * stride + b, _MM_HINT_T0);
    }
    for (int64_t j = 0; j < valid; j += 16) {
      const int64_t left = valid - j;
      const __mmask16 mask = left >= 16 ? __mmask16{0xffff} : __mmask16((1u << left) - 1);
      const __m256i lo = _mm256_maskz_loadu_epi16(has_even ? mask : __mmask16{0}, even + j * 2);
      const __m256i hi = _mm256_maskz_loadu_epi16(has_odd ? mask : __mmask16{0}, odd + j * 2);
      _mm512_store_si512(dst + d * ld + j,
                         _mm512_permutex2var_epi16(_mm512_castsi256_si512(lo), interleave,
                                                   _mm512_castsi256_si512(hi)));
    }
  }
}

}  // namespace
}  // namespace kpt::cpu

#endif  // KPT_KERNELS_GEMM_CPU_PACK_AVX512_H_

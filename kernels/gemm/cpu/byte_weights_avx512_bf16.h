// Weights of bytes as they are stored, to bf16 in the same order. For kernels whose other factor is
// bf16 and read in place.
#ifndef KPT_KERNELS_GEMM_CPU_BYTE_WEIGHTS_AVX512_BF16_H_
#define KPT_KERNELS_GEMM_CPU_BYTE_WEIGHTS_AVX512_BF16_H_

#include <immintrin.h>

#include <cstdint>

#include "kernels/base/dtype.h"

namespace kpt::cpu {
namespace {

// The bf16 values of the 128 magnitudes of an fp8 format, low and high bytes apart: vpermi2b takes
// an index of 7 bits. kMan bits of mantissa; E5M2 has infinities, E4M3FN one NaN.
template <int kMan>
struct Fp8Table {
  alignas(64) uint8_t low[128];
  alignas(64) uint8_t high[128];

  constexpr Fp8Table() : low(), high() {
    constexpr int kBias = kMan == 3 ? 7 : 15;
    for (int i = 0; i < 128; ++i) {
      int exponent = i >> kMan;
      int mantissa = i & ((1 << kMan) - 1);
      uint32_t bits = 0;
      const bool special = kMan == 3 ? i == 127 : exponent == 31;
      if (special) {
        bits = mantissa != 0 ? 0x7fc0 : 0x7f80;
      } else if (exponent != 0 || mantissa != 0) {
        if (exponent == 0) {  // subnormal there, normal in bf16
          exponent = 1;
          for (; (mantissa >> kMan) == 0; mantissa <<= 1) --exponent;
          mantissa &= (1 << kMan) - 1;
        }
        bits = static_cast<uint32_t>(exponent - kBias + 127) << 7 | static_cast<uint32_t>(mantissa)
                                                                        << (7 - kMan);
      }
      low[i] = static_cast<uint8_t>(bits & 255);
      high[i] = static_cast<uint8_t>(bits >> 8);
    }
  }
};

template <int kMan>
constexpr Fp8Table<kMan> kFp8Table;

// 32 codes to 32 bf16. Exact; NaN stays.
template <DType kType>
[[gnu::always_inline]] inline __m512i DecodeBytes(__m256i codes) {
  if constexpr (kType == DType::kInt8) {
    const auto floats = [](__m128i v) __attribute__((always_inline)) {
      return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(v));
    };
    const __m512 first = floats(_mm256_castsi256_si128(codes));
    const __m512 second = floats(_mm256_extracti128_si256(codes, 1));
    return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(second, first));
  } else {
    const auto& table = kFp8Table < kType == DType::kFloat8E5M2 ? 2 : 3 > ;
    // Eight codes in the lower half of each 128-bit block, which the bytes of a word are then put
    // together in.
    const __m512i spread = _mm512_permutexvar_epi64(_mm512_set_epi64(3, 3, 2, 2, 1, 1, 0, 0),
                                                    _mm512_castsi256_si512(codes));
    const __m512i low = _mm512_permutex2var_epi8(_mm512_load_si512(table.low), spread,
                                                 _mm512_load_si512(table.low + 64));
    __m512i high = _mm512_permutex2var_epi8(_mm512_load_si512(table.high), spread,
                                            _mm512_load_si512(table.high + 64));
    // high | (codes & sign)
    high = _mm512_ternarylogic_epi32(high, spread, _mm512_set1_epi8(-128), 0xf8);
    return _mm512_unpacklo_epi8(low, high);
  }
}

// The same of the first n codes at p, n <= 32; the others count as zero.
template <DType kType>
[[gnu::always_inline]] inline __m512i LoadDecoded(const char* p, int64_t n) {
  if (n >= 32) {
    return DecodeBytes<kType>(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  const __mmask32 mask = n > 0 ? static_cast<__mmask32>((uint64_t{1} << n) - 1) : 0;
  return DecodeBytes<kType>(_mm256_maskz_loadu_epi8(mask, p));
}

// 64 codes as bf16, the even ones and the odd ones apart: half the work of bringing them in order.
struct EvenOdd {
  __m512i even;
  __m512i odd;
};

template <int kMan>
[[gnu::always_inline]] inline EvenOdd DecodeFp8Apart(__m512i codes) {
  const auto& table = kFp8Table<kMan>;
  const __m512i low = _mm512_permutex2var_epi8(_mm512_load_si512(table.low), codes,
                                               _mm512_load_si512(table.low + 64));
  __m512i high = _mm512_permutex2var_epi8(_mm512_load_si512(table.high), codes,
                                          _mm512_load_si512(table.high + 64));
  high = _mm512_ternarylogic_epi32(high, codes, _mm512_set1_epi8(-128), 0xf8);
  // even bytes ? a : b
  const __m512i even = _mm512_set1_epi16(0x00ff);
  return {_mm512_ternarylogic_epi32(even, low, _mm512_slli_epi16(high, 8), 0xca),
          _mm512_ternarylogic_epi32(even, _mm512_srli_epi16(low, 8), high, 0xca)};
}

// 64 bf16 in the same way.
[[gnu::always_inline]] inline EvenOdd TakeApart(__m512i first, __m512i second) {
  alignas(64) static constexpr uint16_t kEven[32] = {0,  2,  4,  6,  8,  10, 12, 14, 16, 18, 20,
                                                     22, 24, 26, 28, 30, 32, 34, 36, 38, 40, 42,
                                                     44, 46, 48, 50, 52, 54, 56, 58, 60, 62};
  const __m512i even = _mm512_load_si512(kEven);
  return {_mm512_permutex2var_epi16(first, even, second),
          _mm512_permutex2var_epi16(first, _mm512_add_epi16(even, _mm512_set1_epi16(1)), second)};
}

}  // namespace
}  // namespace kpt::cpu

#endif  // KPT_KERNELS_GEMM_CPU_BYTE_WEIGHTS_AVX512_BF16_H_

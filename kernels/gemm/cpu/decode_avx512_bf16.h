// Weights of 8 and 4 bits in registers: 64 bytes of a panel to vectors of dot-ready bf16 pairs, or
// int4 to int8.
#ifndef KPT_KERNELS_GEMM_CPU_DECODE_AVX512_BF16_H_
#define KPT_KERNELS_GEMM_CPU_DECODE_AVX512_BF16_H_

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "kernels/base/float_codec.h"
#include "kernels/gemm/pack_weight.h"

namespace kpt::cpu {
namespace {

inline __m512i LoadBytes(const void* p) { return _mm512_loadu_si512(p); }

// Two 128-entry byte tables, indexed by magnitude (vpermi2b takes 7 index bits), give the low and
// the high byte of the bf16 value; the sign is copied. Exact for every code. Shifting the bits of
// fp8 into place instead would leave its subnormals bf16 subnormals, which vdpbf16ps reads as zero.
class Decoder {
 public:
  explicit Decoder(PackFormat format) {
    alignas(64) uint8_t low[128];
    alignas(64) uint8_t high[128];
    for (uint32_t i = 0; i < 128; ++i) {
      const float value = format == PackFormat::kInt8      ? static_cast<float>(i)
                          : format == PackFormat::kFp8E4M3 ? E4M3FN::Decode(i)
                                                           : E5M2::Decode(i);
      const uint16_t bf16 = EncodeBf16(value);
      low[i] = static_cast<uint8_t>(bf16 & 255);
      high[i] = static_cast<uint8_t>(bf16 >> 8);
    }
    low0_ = _mm512_load_si512(low);
    low1_ = _mm512_load_si512(low + 64);
    high0_ = _mm512_load_si512(high);
    high1_ = _mm512_load_si512(high + 64);
    sign_ = _mm512_set1_epi8(-128);
    even_bytes_ = _mm512_set1_epi16(0x00ff);
  }

  // `first` gets the even bytes of each dword as a pair, `second` the odd ones: (k, k+1) and
  // (k+2, k+3) where the bytes are k, k+2, k+1, k+3.
  template <bool kInt8>
  void Decode(__m512i codes, __m512i* first, __m512i* second) const {
    const __m512i index = kInt8 ? _mm512_abs_epi8(codes) : codes;
    const __m512i low = _mm512_permutex2var_epi8(low0_, index, low1_);
    __m512i high = _mm512_permutex2var_epi8(high0_, index, high1_);
    high = _mm512_ternarylogic_epi32(high, codes, sign_, 0xf8);  // high | (codes & sign)
    // select: even_bytes ? a : b
    *first = _mm512_ternarylogic_epi32(even_bytes_, low, _mm512_slli_epi16(high, 8), 0xca);
    *second = _mm512_ternarylogic_epi32(even_bytes_, _mm512_srli_epi16(low, 8), high, 0xca);
  }

 private:
  __m512i low0_, low1_, high0_, high1_, sign_, even_bytes_;
};

// Zero points of 16 outputs, each in the four bytes of its dword.
inline __m512i SpreadZeros(const uint8_t* zeros) {
  const __m512i wide =
      _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(zeros)));
  const __m512i first = _mm512_set4_epi32(0x0c0c0c0c, 0x08080808, 0x04040404, 0);
  return _mm512_shuffle_epi8(wide, first);
}

// int4 with zero points to int8: c - z for the first and the last four inputs of each dword.
inline void SubtractZeros(__m512i codes, __m512i zero, __m512i* first, __m512i* last) {
  const __m512i eight = _mm512_set1_epi8(8);
  const __m512i half = _mm512_set1_epi8(15);
  // (codes ^ eight) & half: q + 8 = c, of 4 bits.
  const __m512i low = _mm512_ternarylogic_epi32(codes, eight, half, 0x28);
  const __m512i high = _mm512_ternarylogic_epi32(_mm512_srli_epi16(codes, 4), eight, half, 0x28);
  *first = _mm512_sub_epi8(low, zero);
  *last = _mm512_sub_epi8(high, zero);
}

// int4 to bf16 by a table of 32 words: vpermw reads 5 index bits. Without zero points the table has
// period 16, so that nothing needs masking; c - z lies between -16 and 15 and is an index itself.
template <bool kZeroPoints>
class Int4Decoder {
 public:
  Int4Decoder() {
    constexpr int kBits = kZeroPoints ? 5 : 4;
    alignas(64) uint16_t table[32];
    for (int i = 0; i < 32; ++i) {
      const int value = i % (1 << kBits);
      table[i] =
          EncodeBf16(static_cast<float>(value >> (kBits - 1) ? value - (1 << kBits) : value));
    }
    table_ = _mm512_load_si512(table);
  }

  // Inputs (0, 1), (2, 3), (4, 5), (6, 7) of each dword.
  void Decode(__m512i codes, __m512i zero, __m512i* pairs) const {
    __m512i first = codes, last;
    if constexpr (kZeroPoints) {
      SubtractZeros(codes, zero, &first, &last);
    } else {
      last = _mm512_srli_epi16(codes, 4);
    }
    pairs[0] = _mm512_permutexvar_epi16(first, table_);
    pairs[1] = _mm512_permutexvar_epi16(_mm512_srli_epi16(first, 8), table_);
    pairs[2] = _mm512_permutexvar_epi16(last, table_);
    pairs[3] = _mm512_permutexvar_epi16(_mm512_srli_epi16(last, 8), table_);
  }

 private:
  __m512i table_;
};

}  // namespace
}  // namespace kpt::cpu

#endif  // KPT_KERNELS_GEMM_CPU_DECODE_AVX512_BF16_H_

// 8-bit weights to bf16 in registers: 64 bytes of a panel to two vectors of dot-ready pairs.
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
      const float value = format == PackFormat::kInt8 ? static_cast<float>(i) : E4M3FN::Decode(i);
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

  // The bytes of a dword are k, k+2, k+1, k+3: `first` gets pairs (k, k+1), `second` (k+2, k+3).
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

}  // namespace
}  // namespace kpt::cpu

#endif  // KPT_KERNELS_GEMM_CPU_DECODE_AVX512_BF16_H_

// The two ends of int8 products on AVX-512: rows of bf16 to u8, and sums to y. Included by the
// files of avx512_bf16 and amx; everything has internal linkage.
#ifndef KPT_KERNELS_GEMM_CPU_INT8_AVX512_BF16_H_
#define KPT_KERNELS_GEMM_CPU_INT8_AVX512_BF16_H_

#include <immintrin.h>

#include <cstdint>

#include "kernels/base/float_codec.h"
#include "kernels/gemm/cpu/quant_gemm.h"

namespace kpt::cpu {
namespace {

// The largest of 32 unsigned 16-bit numbers.
inline uint32_t MaxU16(__m512i v) {
  __m256i h = _mm256_max_epu16(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64(v, 1));
  __m128i q = _mm_max_epu16(_mm256_castsi256_si128(h), _mm256_extracti128_si256(h, 1));
  const __m128i ones = _mm_set1_epi16(-1);
  return (static_cast<uint32_t>(_mm_cvtsi128_si32(_mm_minpos_epu16(_mm_xor_si128(q, ones)))) &
          0xffffu) ^
         0xffffu;
}

// The same numbers as QuantizeRows in quant_gemm_simd.cc, for bf16 x.
[[maybe_unused]] void QuantizeBf16Rows(const QuantGemm& g, int64_t m0, int64_t rows, uint8_t* u,
                                       int64_t ld, float* s, int32_t* z) {
  // Where the bytes of a dword, k, k+2, k+1, k+3, lie after packing two vectors lane by lane.
  alignas(64) uint8_t order[64];
  for (int i = 0; i < 64; ++i) {
    constexpr int kOrder[4] = {0, 2, 1, 3};
    const int k = i / 4 * 4 + kOrder[i % 4];
    order[i] = static_cast<uint8_t>(k < 32 ? k / 8 * 16 + k % 8 : (k - 32) / 8 * 16 + 8 + k % 8);
  }
  const __m512i place = _mm512_load_si512(order);
  const __m512i high = _mm512_set1_epi32(static_cast<int32_t>(0xffff0000u));
  const int64_t padded = g.depth() * g.per_dword();
  const uint16_t* x = static_cast<const uint16_t*>(g.x) + m0 * g.ldx;
  const auto load = [&](const uint16_t* p, int64_t left) {
    if (left >= 32) return _mm512_loadu_si512(p);
    if (left <= 0) return _mm512_setzero_si512();
    return _mm512_maskz_loadu_epi16((__mmask32{1} << left) - 1, p);
  };
  for (int64_t r = 0; r < rows; ++r, x += g.ldx, u += ld) {
    // As signed integers the largest bf16 is the most positive, as unsigned the most negative;
    // what is not finite is beyond both.
    __m512i most = _mm512_setzero_si512();
    __m512i least = _mm512_setzero_si512();
    for (int64_t i = 0; i < g.k; i += 32) {
      const __m512i v = load(x + i, g.k - i);
      most = _mm512_max_epi16(most, v);
      least = _mm512_max_epu16(least, v);
    }
    const uint32_t hi_bits = MaxU16(most);
    const uint32_t lo_bits = MaxU16(least);
    float inverse = 0.0f;
    s[r] = 0.0f;
    z[r] = 0;
    if (hi_bits >= 0x7f80 || lo_bits >= 0xff80) {
      s[r] = FloatFromBits(0x7fc00000u);
    } else {
      const float hi = FloatFromBits(hi_bits << 16);
      const float lo = lo_bits > 0x8000 ? FloatFromBits(lo_bits << 16) : 0.0f;
      const float scale = hi / 255.0f - lo / 255.0f;
      if (scale >= 1.17549435e-38f) {
        s[r] = scale;
        inverse = 1.0f / scale;
        z[r] = static_cast<int32_t>((-lo / scale + 8388608.0f) - 8388608.0f);
      }
    }
    const __m512 factor = _mm512_set1_ps(inverse);
    const __m512i zero = _mm512_set1_epi16(static_cast<int16_t>(z[r]));
    const auto pair = [&](__m512i v) {  // 32 bf16 to 32 int16
      const __m512 even = _mm512_castsi512_ps(_mm512_slli_epi32(v, 16));
      const __m512 odd = _mm512_castsi512_ps(_mm512_and_si512(v, high));
      const __m512i e = _mm512_cvtps_epi32(_mm512_mul_ps(even, factor));
      const __m512i o = _mm512_cvtps_epi32(_mm512_mul_ps(odd, factor));
      // select: high ? o << 16 : e
      const __m512i both = _mm512_ternarylogic_epi32(high, _mm512_slli_epi32(o, 16), e, 0xca);
      return _mm512_add_epi16(both, zero);
    };
    for (int64_t i = 0; i < padded; i += 64) {
      const __m512i a = pair(load(x + i, g.k - i));
      const __m512i b = pair(load(x + i + 32, g.k - i - 32));
      const __m512i bytes = _mm512_packus_epi16(a, b);  // saturates to 0..255
      _mm512_storeu_si512(u + i, _mm512_permutexvar_epi8(place, bytes));
    }
  }
}

[[maybe_unused]] void QuantizeAnyRows(const QuantGemm& g, int64_t m0, int64_t rows, uint8_t* u,
                                      int64_t ld, float* s, int32_t* z) {
  if (g.x_dtype == DType::kBFloat16) {
    QuantizeBf16Rows(g, m0, rows, u, ld, s, z);
  } else {
    avx512::QuantizeRows(g, m0, rows, u, ld, s, z);
  }
}

// The zero point's part of an int8 product, -z * sum q, as one 16-bit dot: z is at most 255 and
// |sum q| < 2^22 (K <= 32768), so with sum q = low + 128 high both factors fit 16 bits.
inline __m512i ZeroFactor(int32_t z) { return _mm512_set1_epi32(z | (z * 128) << 16); }
inline __m512i MinusSums(const int32_t* column_sums) {
  const __m512i minus = _mm512_sub_epi32(_mm512_setzero_si512(), _mm512_loadu_si512(column_sums));
  const __m512i low = _mm512_and_si512(minus, _mm512_set1_epi32(127));
  return _mm512_or_si512(low, _mm512_slli_epi32(_mm512_srai_epi32(minus, 7), 16));
}

inline __m512 LoadBias(const Epilogue& e, int64_t column, __mmask16 mask) {
  if (e.bias == nullptr) return _mm512_setzero_ps();
  if (e.bias_dtype == DType::kFloat32) {
    return _mm512_maskz_loadu_ps(mask, static_cast<const float*>(e.bias) + column);
  }
  const __m256i half =
      _mm256_maskz_loadu_epi16(mask, static_cast<const uint16_t*>(e.bias) + column);
  if (e.bias_dtype == DType::kFloat16) return _mm512_cvtph_ps(half);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

// What EmitBlock needs of an int8 product besides its sums.
struct Int8Ends {
  const float* s;
  const int32_t* z;
  const int32_t* column_sums;
};

template <DType kOut, bool kInt8, bool kRelu, int kVecs>
void EmitPlain(const Epilogue& e, const char* sums, const Int8Ends& ends, int64_t m0, int64_t rows,
               int64_t n0, int64_t cols) {
  __m512 scale[kVecs], bias[kVecs];
  __m512i minus[kVecs];
  __mmask16 mask[kVecs];
  for (int j = 0; j < kVecs; ++j) {
    const int64_t left = cols - j * 16;
    mask[j] =
        left >= 16 ? __mmask16{0xffff} : static_cast<__mmask16>(left > 0 ? (1u << left) - 1 : 0u);
    scale[j] = e.scale != nullptr ? _mm512_maskz_loadu_ps(mask[j], e.scale + n0 + j * 16)
                                  : _mm512_set1_ps(1.0f);
    bias[j] = LoadBias(e, n0 + j * 16, mask[j]);
    if (kInt8) minus[j] = MinusSums(ends.column_sums + j * 16);
  }
  const bool whole = cols >= kVecs * 16;
  char* y = static_cast<char*>(e.y) + (m0 * e.ldy + n0) * ItemSize(kOut);
  for (int64_t r = 0; r < rows; ++r, sums += kPanelRowBytes, y += e.ldy * ItemSize(kOut)) {
    __m512 v[kVecs];
    const __m512i zero = kInt8 ? ZeroFactor(ends.z[r]) : _mm512_setzero_si512();
    for (int j = 0; j < kVecs; ++j) {
      if (kInt8) {
        const __m512i dot = _mm512_dpwssd_epi32(_mm512_loadu_si512(sums + j * 64), zero, minus[j]);
        v[j] = _mm512_mul_ps(_mm512_cvtepi32_ps(dot), _mm512_set1_ps(ends.s[r]));
      } else {
        v[j] = _mm512_loadu_ps(sums + j * 64);
      }
      v[j] = _mm512_fmadd_ps(v[j], scale[j], bias[j]);
      // max(0, v) returns its second operand, v, when that is NaN.
      if (kRelu) v[j] = _mm512_max_ps(_mm512_setzero_ps(), v[j]);
    }
    if constexpr (kOut == DType::kBFloat16) {
      for (int j = 0; j < kVecs; j += 2) {
        const __m512i both = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(v[j + 1], v[j]));
        if (whole) {
          _mm512_storeu_si512(y + j * 32, both);
        } else {
          _mm512_mask_storeu_epi16(
              y + j * 32,
              static_cast<__mmask32>(mask[j]) | static_cast<__mmask32>(mask[j + 1]) << 16, both);
        }
      }
    } else {
      for (int j = 0; j < kVecs; ++j) {
        if constexpr (kOut == DType::kFloat32) {
          _mm512_mask_storeu_ps(y + j * 64, mask[j], v[j]);
        } else {
          _mm256_mask_storeu_epi16(
              y + j * 32, mask[j],
              _mm512_cvtps_ph(v[j], _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
        }
      }
    }
  }
}

template <DType kOut, bool kInt8, int kVecs>
void EmitAct(const Epilogue& e, char* sums, const Int8Ends& ends, int64_t m0, int64_t rows,
             int64_t n0, int64_t cols) {
  if (e.activation == ActivationKind::kNone) {
    return EmitPlain<kOut, kInt8, false, kVecs>(e, sums, ends, m0, rows, n0, cols);
  }
  if (e.activation == ActivationKind::kRelu) {
    return EmitPlain<kOut, kInt8, true, kVecs>(e, sums, ends, m0, rows, n0, cols);
  }
  if (kInt8) {  // to floats in place
    __m512i minus[kVecs];
    for (int j = 0; j < kVecs; ++j) minus[j] = MinusSums(ends.column_sums + j * 16);
    for (int64_t r = 0; r < rows; ++r) {
      char* row = sums + r * kPanelRowBytes;
      const __m512i zero = ZeroFactor(ends.z[r]);
      for (int j = 0; j < kVecs; ++j) {
        const __m512i dot = _mm512_dpwssd_epi32(_mm512_loadu_si512(row + j * 64), zero, minus[j]);
        _mm512_storeu_ps(row + j * 64,
                         _mm512_mul_ps(_mm512_cvtepi32_ps(dot), _mm512_set1_ps(ends.s[r])));
      }
    }
  }
  avx512::EmitRows(e, reinterpret_cast<const float*>(sums), nullptr, kPanelCols, m0, rows, n0,
                   cols);
}

// kVecs * 16 columns of sums (int32 when kInt8, else float; row stride 64) to y; may change sums.
// cols of them belong to y.
template <bool kInt8, int kVecs>
void EmitBlock(const Epilogue& e, char* sums, const Int8Ends& ends, int64_t m0, int64_t rows,
               int64_t n0, int64_t cols) {
  if (cols <= 0) return;
  switch (e.y_dtype) {
    case DType::kFloat32:
      return EmitAct<DType::kFloat32, kInt8, kVecs>(e, sums, ends, m0, rows, n0, cols);
    case DType::kFloat16:
      return EmitAct<DType::kFloat16, kInt8, kVecs>(e, sums, ends, m0, rows, n0, cols);
    default:
      return EmitAct<DType::kBFloat16, kInt8, kVecs>(e, sums, ends, m0, rows, n0, cols);
  }
}

}  // namespace
}  // namespace kpt::cpu

#endif  // KPT_KERNELS_GEMM_CPU_INT8_AVX512_BF16_H_

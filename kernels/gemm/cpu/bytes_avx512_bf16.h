// Bytes to what the dot instructions of AVX-512 take, and what the kernels for bytes on that
// instruction set share. Included by the files of avx512_bf16 and amx; internal linkage.
#ifndef KPT_KERNELS_GEMM_CPU_BYTES_AVX512_BF16_H_
#define KPT_KERNELS_GEMM_CPU_BYTES_AVX512_BF16_H_

#include <immintrin.h>

#include <cstdint>

#include "kernels/gemm/cpu/byte_gemm.h"
#include "kernels/gemm/cpu/decode_avx512_bf16.h"
#include "kernels/gemm/cpu/pack_avx512.h"

namespace kpt::cpu {
namespace {

inline Decoder Fp8Decoder(DType dtype) {
  return Decoder(dtype == DType::kFloat8E5M2 ? PackFormat::kFp8E5M2 : PackFormat::kFp8E4M3);
}

// Transposes dwords [d, d + 16) of `valid` (at most 16) rows of `count` bytes; column(j, v).
template <class Column>
inline __attribute__((always_inline)) void TransposeBytes(const uint8_t* rows, int64_t stride,
                                                          int64_t valid, int64_t count,
                                                          const Column& column) {
  if (valid >= 16 && count >= 64) {
    Transpose16x16(
        [&](int i) __attribute__((always_inline)) { return _mm512_loadu_si512(rows + i * stride); },
        column);
  } else {
    Transpose16x16(
        [&](int i) __attribute__((always_inline)) {
          if (i >= valid) return _mm512_setzero_si512();
          return LoadBytes(reinterpret_cast<const char*>(rows + i * stride), count);
        },
        column);
  }
}

// fp8 codes to pairs of bf16: of every 64 codes first the pairs (k, k+2), then (k+1, k+3), each for
// k = 0, 4, 8, ...
class Fp8Bytes {
 public:
  explicit Fp8Bytes(const ByteGemm& g) : a_(Fp8Decoder(g.a_dtype)), b_(Fp8Decoder(g.b_dtype)) {}

  void ConvertA(const uint8_t* codes, int64_t count, uint32_t* to) const {
    for (; count > 0; count -= 64, codes += 64, to += 32) {
      __m512i first, second;
      a_.Decode<false>(LoadBytes(reinterpret_cast<const char*>(codes), count), &first, &second);
      _mm512_store_si512(to, first);
      _mm512_store_si512(to + 16, second);
    }
  }

  // 64 codes of b, in the order of ConvertA.
  void DecodeB(__m512i codes, __m512i* first, __m512i* second) const {
    b_.Decode<false>(codes, first, second);
  }

  void PackB(const uint8_t* rows, int64_t stride, int64_t valid, int64_t count, uint32_t* to,
             int32_t* /*sums*/) const {
    for (; count > 0; count -= 64, rows += 64, to += 32 * kPanelCols) {
      TransposeBytes(rows, stride, valid, count,
                     [&](int j, __m512i v) __attribute__((always_inline)) {
                       __m512i first, second;
                       b_.Decode<false>(v, &first, &second);
                       _mm512_store_si512(to + j * kPanelCols, first);
                       _mm512_store_si512(to + (16 + j) * kPanelCols, second);
                     });
    }
  }

 private:
  Decoder a_, b_;
};

// int8 for instructions that take one factor unsigned: a + 128, and the sum of each column of b,
// from which that is taken off again.
class Int8Bytes {
 public:
  explicit Int8Bytes(const ByteGemm&) {}

  void ConvertA(const uint8_t* codes, int64_t count, uint32_t* to) const {
    for (; count > 0; count -= 64, codes += 64, to += 16) {
      const __m512i v = LoadBytes(reinterpret_cast<const char*>(codes), count);
      _mm512_store_si512(to, _mm512_xor_si512(v, _mm512_set1_epi8(-128)));
    }
  }

  void PackB(const uint8_t* rows, int64_t stride, int64_t valid, int64_t count, uint32_t* to,
             int32_t* sums) const {
    const __m512i ones = _mm512_set1_epi8(1);
    __m512i sum = _mm512_loadu_si512(sums);
    for (; count > 0; count -= 64, rows += 64, to += 16 * kPanelCols) {
      TransposeBytes(rows, stride, valid, count,
                     [&](int j, __m512i v) __attribute__((always_inline)) {
                       _mm512_store_si512(to + j * kPanelCols, v);
                       sum = _mm512_dpbusd_epi32(sum, ones, v);
                     });
    }
    _mm512_storeu_si512(sums, sum);
  }

  // Sums of (a + 128) b, `cols` columns (a multiple of 16) of `rows` rows `cols` apart, to floats
  // in place.
  void Finish(const ByteGemm& g, int64_t m0, int64_t rows, const float* row_scale,
              const float* column_scale, const int32_t* column_sums, int64_t cols,
              float* sums) const {
    for (int64_t i = 0; i < rows; ++i, sums += cols) {
      const __m512 scale = _mm512_set1_ps(row_scale[i]);
      const int32_t zero = g.ZeroPoint(m0 + i);
      const __m512d minus_zero = _mm512_set1_pd(-static_cast<double>(zero));
      for (int64_t j = 0; j < cols; j += 16) {
        const __m512i columns = _mm512_loadu_si512(column_sums + j);
        const __m512i dot =
            _mm512_sub_epi32(_mm512_loadu_si512(sums + j), _mm512_slli_epi32(columns, 7));
        __m512 v;
        if (zero == 0) {
          v = _mm512_cvtepi32_ps(dot);
        } else {
          v = _mm512_insertf32x8(_mm512_castps256_ps512(Corrected(dot, columns, minus_zero, 0)),
                                 Corrected(dot, columns, minus_zero, 1), 1);
        }
        v = _mm512_mul_ps(_mm512_mul_ps(v, scale), _mm512_loadu_ps(column_scale + j));
        _mm512_storeu_ps(sums + j, v);
      }
    }
  }

 private:
  static __m256 Corrected(__m512i dot, __m512i columns, __m512d minus_zero, int half) {
    const auto part = [&](__m512i v) {
      return _mm512_cvtepi32_pd(half == 0 ? _mm512_castsi512_si256(v)
                                          : _mm512_extracti64x4_epi64(v, 1));
    };
    return _mm512_cvtpd_ps(_mm512_fmadd_pd(minus_zero, part(columns), part(dot)));
  }
};

inline __m512 DotBf16(__m512 sum, __m512i a, __m512i b) {
  return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
}

}  // namespace
}  // namespace kpt::cpu

#endif  // KPT_KERNELS_GEMM_CPU_BYTES_AVX512_BF16_H_

// DequantizePieces, for the instruction set that the including file is compiled for.
#ifndef KPT_KERNELS_QUANT_CPU_DEQUANTIZE_ROWS_IMPL_H_
#define KPT_KERNELS_QUANT_CPU_DEQUANTIZE_ROWS_IMPL_H_

#include <cstring>

#include "kernels/base/simd_fp8.h"
#include "kernels/base/simd_io.h"
#include "kernels/quant/cpu/dequantize_rows.h"

HWY_BEFORE_NAMESPACE();
namespace kpt::cpu::KPT_SIMD_NS {
namespace {

constexpr int64_t kPair = 2 * kLanes;

template <class F>
KPT_SIMD_INLINE void DecodeScaled(const uint8_t* codes, FloatVec scale, FloatVec* a, FloatVec* b) {
  DecodeFp8<F>(codes, a, b);
  *a = hn::Mul(*a, scale);
  *b = hn::Mul(*b, scale);
}

template <class F, bool kStream, class T>
void DecodeSpanTo(const uint8_t* codes, int64_t n, float scale_of_span, T* out) {
  const FloatVec scale = hn::Set(FloatTag(), scale_of_span);
  FloatVec a, b;
  int64_t i = 0;
  for (; i + kPair <= n; i += kPair) {
    DecodeScaled<F>(codes + i, scale, &a, &b);
    StorePair<kStream>(a, b, out + i);
  }
  const int64_t m = n - i;
  if (m == 0) return;
  alignas(64) uint8_t last[kPair] = {};
  std::memcpy(last, codes + i, static_cast<size_t>(m));
  DecodeScaled<F>(last, scale, &a, &b);
  StoreN(a, out + i, m < kLanes ? m : kLanes);
  if (m > kLanes) StoreN(b, out + i + kLanes, m - kLanes);
}

// How far ahead of the codes that are read the next ones are asked for: the hardware's own
// prefetching stops at the end of a page, which is as long as a piece.
constexpr int64_t kAhead = 1024;

#if defined(__AVX512VBMI__)
// Results of 16 bits by tables of the 128 magnitudes under one scale: vpermi2b looks up 64 bytes in
// 128 at once. The entries are what the arithmetic gives, so both ways agree bit by bit.
template <class F, class T>
class ScaledTable {
 public:
  // With fewer codes of one scale the tables cost more than they save.
  static constexpr int64_t kLeastCodes = 1024;

  bool IsFor(float scale) const { return made_ && std::memcmp(&scale, &scale_, sizeof scale) == 0; }

  void Make(float scale) {
    alignas(64) uint8_t codes[128];
    for (int i = 0; i < 128; ++i) codes[i] = static_cast<uint8_t>(i);
    alignas(64) T values[128];
    FloatVec a, b;
    for (int i = 0; i < 128; i += kPair) {
      DecodeScaled<F>(codes + i, hn::Set(FloatTag(), scale), &a, &b);
      StorePair<false>(a, b, values + i);
    }
    __m512i even[2], odd[2];
    for (int i = 0; i < 2; ++i) {
      const __m512i first = _mm512_load_si512(values + i * 64);
      const __m512i second = _mm512_load_si512(values + i * 64 + 32);
      alignas(64) uint8_t order[64];
      for (int j = 0; j < 64; ++j) order[j] = static_cast<uint8_t>(2 * j);
      const __m512i low = _mm512_load_si512(order);
      even[i] = _mm512_permutex2var_epi8(first, low, second);
      odd[i] = _mm512_permutex2var_epi8(first, _mm512_add_epi8(low, _mm512_set1_epi8(1)), second);
    }
    low0_ = even[0], low1_ = even[1], high0_ = odd[0], high1_ = odd[1];
    scale_ = scale;
    made_ = true;
  }

  // 64 codes from `codes` on.
  template <bool kStream>
  void Decode(const uint8_t* codes, T* out) const {
    // Interleaving works in blocks of 128 bits: of eight codes each, first to fourth and the rest.
    const __m512i order = _mm512_set_epi64(7, 3, 6, 2, 5, 1, 4, 0);
    const __m512i v = _mm512_permutexvar_epi64(order, _mm512_loadu_si512(codes));
    const __m512i low = _mm512_permutex2var_epi8(low0_, v, low1_);
    const __m512i magnitude = _mm512_permutex2var_epi8(high0_, v, high1_);
    // magnitude ^ (v & sign)
    const __m512i high = _mm512_ternarylogic_epi32(magnitude, v, _mm512_set1_epi8(-128), 0x78);
    Put<kStream>(_mm512_unpacklo_epi8(low, high), out);
    Put<kStream>(_mm512_unpackhi_epi8(low, high), out + 32);
  }

 private:
  template <bool kStream>
  static void Put(__m512i v, T* p) {
    if constexpr (kStream) {
      _mm512_stream_si512(reinterpret_cast<__m512i*>(p), v);
    } else {
      _mm512_storeu_si512(p, v);
    }
  }

  __m512i low0_, low1_, high0_, high1_;
  float scale_ = 0.0f;
  bool made_ = false;
};
#endif

template <class F, class T>
class SpanDecoder {
 public:
  void operator()(const uint8_t* codes, int64_t n, float scale, bool stream, T* out) {
    if (stream && StreamPrefix(out, n) == 0) {
      Run<true>(codes, n, scale, out);
    } else {
      Run<false>(codes, n, scale, out);
    }
  }

 private:
  template <bool kStream>
  void Run(const uint8_t* codes, int64_t n, float scale, T* out) {
    int64_t i = 0;
#if defined(__AVX512VBMI__)
    if constexpr (sizeof(T) == 2) {
      using Table = ScaledTable<F, T>;
      if (n >= Table::kLeastCodes) {
        if (!table_.IsFor(scale)) table_.Make(scale);
        for (; i + 64 <= n; i += 64) {
          __builtin_prefetch(codes + i + kAhead, 0, 2);
          table_.template Decode<kStream>(codes + i, out + i);
        }
      }
    }
#endif
    DecodeSpanTo<F, kStream>(codes + i, n - i, scale, out + i);
  }

#if defined(__AVX512VBMI__)
  ScaledTable<F, T> table_;
#endif
};

template <class F, class T>
void Pieces(const DequantizeJob& job, int64_t begin, int64_t end) {
  const Strips& s = job.strips;
  SpanDecoder<F, T> decode;
  for (int64_t piece = begin; piece < end; ++piece) {
    const int64_t strip = piece / s.pieces_per_strip;
    const int64_t start = (piece - strip * s.pieces_per_strip) * s.piece;
    const int64_t n = s.cols - start < s.piece ? s.cols - start : s.piece;
    int64_t at[DequantizeJob::kNumTensors];
    RowOffsets(job.plan, strip, at);
    const float* scale = job.scale + at[DequantizeJob::kScale] + start / s.group;
    const int64_t row = strip % s.strips_per_matrix * s.rows_per_strip;
    const int64_t left = s.matrix_rows - row;
    const int64_t rows = left < s.rows_per_strip ? left : s.rows_per_strip;
    const uint8_t* codes = job.codes + at[DequantizeJob::kCodes] + start;
    T* out = static_cast<T*>(job.out) + at[DequantizeJob::kOut] + start;
    for (int64_t r = 0; r < rows; ++r, codes += job.codes_step, out += job.out_step) {
      for (int64_t g = 0, c = 0; c < n; ++g, c += s.group) {
        const int64_t m = n - c < s.group ? n - c : s.group;
        decode(codes + c, m, scale[g], job.stream, out + c);
      }
    }
  }
}

template <class F>
void PiecesOf(const DequantizeJob& job, int64_t begin, int64_t end) {
  switch (job.out_dtype) {
    case DType::kFloat32:
      return Pieces<F, float>(job, begin, end);
    case DType::kFloat16:
      return Pieces<F, Half>(job, begin, end);
    default:
      return Pieces<F, BFloat16>(job, begin, end);
  }
}

}  // namespace

void DequantizePieces(const DequantizeJob& job, int64_t begin, int64_t end) {
  if (job.format == DType::kFloat8E4M3FN) {
    PiecesOf<E4M3Format>(job, begin, end);
  } else {
    PiecesOf<E5M2Format>(job, begin, end);
  }
}

}  // namespace kpt::cpu::KPT_SIMD_NS
HWY_AFTER_NAMESPACE();

#endif  // KPT_KERNELS_QUANT_CPU_DEQUANTIZE_ROWS_IMPL_H_

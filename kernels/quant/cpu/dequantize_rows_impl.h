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

template <class F, class T>
void DecodeSpan(const uint8_t* codes, int64_t n, float scale, bool stream, T* out) {
  if (stream && StreamPrefix(out, n) == 0) {
    DecodeSpanTo<F, true>(codes, n, scale, out);
  } else {
    DecodeSpanTo<F, false>(codes, n, scale, out);
  }
}

template <class F, class T>
void Pieces(const DequantizeJob& job, int64_t begin, int64_t end) {
  const Strips& s = job.strips;
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
        DecodeSpan<F>(codes + c, m, scale[g], job.stream, out + c);
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

// QuantizePieces and RangeOfPieces, for the instruction set that the including file is compiled
// for.
#ifndef KPT_KERNELS_QUANT_CPU_QUANTIZE_ROWS_IMPL_H_
#define KPT_KERNELS_QUANT_CPU_QUANTIZE_ROWS_IMPL_H_

#include "kernels/quant/cpu/quantize_groups.h"

HWY_BEFORE_NAMESPACE();
namespace kpt::cpu::KPT_SIMD_NS {
namespace {

// One piece of the job, and where its scales lie.
template <class T>
Block<T> PieceAt(const QuantizeJob& job, int64_t piece, GroupScales* scales) {
  const Strips& s = job.strips;
  const int64_t strip = piece / s.pieces_per_strip;
  const int64_t start = (piece - strip * s.pieces_per_strip) * s.piece;
  int64_t at[QuantizeJob::kNumTensors];
  RowOffsets(job.plan, strip, at);
  const int64_t matrix = strip / s.strips_per_matrix;
  const int64_t row = (strip - matrix * s.strips_per_matrix) * s.rows_per_strip;
  Block<T> b;
  b.x = static_cast<const T*>(job.x) + at[QuantizeJob::kX] + start;
  b.x_step = job.x_step;
  b.codes = job.codes + at[QuantizeJob::kCodes] + start;
  b.codes_step = job.codes_step;
  b.rows = s.matrix_rows - row < s.rows_per_strip ? s.matrix_rows - row : s.rows_per_strip;
  b.n = s.cols - start < s.piece ? s.cols - start : s.piece;
  b.group = s.group;
  b.index = static_cast<uint64_t>((matrix * s.matrix_rows + row) * s.cols + start);
  b.index_step = static_cast<uint64_t>(s.cols);
  const int64_t first = start / s.group;
  const auto advanced = [first](auto* p, int64_t offset) {
    return p != nullptr ? p + offset + first : p;
  };
  scales->scale_in = advanced(job.scales.scale_in, at[QuantizeJob::kScaleIn]);
  scales->zero_in = advanced(job.scales.zero_in, at[QuantizeJob::kZeroIn]);
  if (start % s.group == 0) {  // the piece that begins a group writes its scale
    scales->scale_out = advanced(job.scales.scale_out, at[QuantizeJob::kScaleOut]);
    scales->zero_out = advanced(job.scales.zero_out, at[QuantizeJob::kZeroOut]);
  }
  return b;
}

template <class T>
float Quantize(const QuantizeJob& job, int64_t begin, int64_t end) {
  float largest = 0.0f;
  for (int64_t piece = begin; piece < end; ++piece) {
    GroupScales scales;
    const Block<T> block = PieceAt<T>(job, piece, &scales);
    const float amax = QuantizeBlock(job.spec, block, scales);
    if (amax > largest) largest = amax;
  }
  return largest;
}

template <class T>
Range Measure(const QuantizeJob& job, int64_t begin, int64_t end) {
  Range range;
  for (int64_t piece = begin; piece < end; ++piece) {
    GroupScales scales;
    const Block<T> b = PieceAt<T>(job, piece, &scales);
    Cover(RangeOf(job.spec.format, b.x, b.n), &range);
  }
  return range;
}

}  // namespace

float QuantizePieces(const QuantizeJob& job, int64_t begin, int64_t end) {
  switch (job.x_dtype) {
    case DType::kFloat32:
      return Quantize<float>(job, begin, end);
    case DType::kFloat16:
      return Quantize<Half>(job, begin, end);
    default:
      return Quantize<BFloat16>(job, begin, end);
  }
}

Range RangeOfPieces(const QuantizeJob& job, int64_t begin, int64_t end) {
  switch (job.x_dtype) {
    case DType::kFloat32:
      return Measure<float>(job, begin, end);
    case DType::kFloat16:
      return Measure<Half>(job, begin, end);
    default:
      return Measure<BFloat16>(job, begin, end);
  }
}

}  // namespace kpt::cpu::KPT_SIMD_NS
HWY_AFTER_NAMESPACE();

#endif  // KPT_KERNELS_QUANT_CPU_QUANTIZE_ROWS_IMPL_H_

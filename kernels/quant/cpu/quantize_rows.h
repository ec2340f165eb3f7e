// The loops of quantization, one copy per instruction set.
#ifndef KPT_KERNELS_QUANT_CPU_QUANTIZE_ROWS_H_
#define KPT_KERNELS_QUANT_CPU_QUANTIZE_ROWS_H_

#include <cstdint>

#include "kernels/base/dtype.h"
#include "kernels/base/rows.h"
#include "kernels/quant/cpu/strips.h"
#include "kernels/quant/quant_format.h"

namespace kpt::cpu {

// What is asked of every group.
struct QuantSpec {
  QuantFormat format = QuantFormat::kE4M3;
  bool measure_scale = true;  // else it is given
  bool return_amax = false;   // with a given scale: amax goes where the scale would
  bool stochastic = false;
  uint64_t seed = 0;
  bool stream = false;  // write codes past the caches
};

// The scales of the groups of one piece, each an array over its groups; nullptr: none is read, or
// none is written.
struct GroupScales {
  const float* scale_in = nullptr;
  float* scale_out = nullptr;
  const int32_t* zero_in = nullptr;
  int32_t* zero_out = nullptr;
};

// What was measured of a group: symmetric formats have hi = amax and no lo. hi is NaN when the
// group has one that the format cannot keep.
struct Range {
  float lo = 0.0f;
  float hi = 0.0f;
};

// A checked problem. Plain data: files of every instruction set read it.
struct QuantizeJob {
  enum Tensor { kCodes, kX, kScaleIn, kScaleOut, kZeroIn, kZeroOut, kNumTensors };

  RowPlan<kNumTensors> plan;  // over strips
  Strips strips;
  QuantSpec spec;
  DType x_dtype = DType::kFloat32;
  const void* x = nullptr;
  int64_t x_step = 0;  // from row to row of a strip, in elements
  uint8_t* codes = nullptr;
  int64_t codes_step = 0;
  bool shared = false;  // one scale for all
  GroupScales scales;
};

// Pieces [begin, end). Quantize returns the largest amax when that is asked for.
using QuantizePiecesFn = float (*)(const QuantizeJob& job, int64_t begin, int64_t end);
using RangeOfPiecesFn = Range (*)(const QuantizeJob& job, int64_t begin, int64_t end);

#define KPT_DECLARE_QUANTIZE(isa)                                           \
  namespace isa {                                                           \
  float QuantizePieces(const QuantizeJob& job, int64_t begin, int64_t end); \
  Range RangeOfPieces(const QuantizeJob& job, int64_t begin, int64_t end);  \
  }
KPT_DECLARE_QUANTIZE(baseline)
KPT_DECLARE_QUANTIZE(avx2)
KPT_DECLARE_QUANTIZE(avx512)
#undef KPT_DECLARE_QUANTIZE

}  // namespace kpt::cpu

#endif  // KPT_KERNELS_QUANT_CPU_QUANTIZE_ROWS_H_

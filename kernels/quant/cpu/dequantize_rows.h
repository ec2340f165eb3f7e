// The loop of dequantization, one copy per instruction set.
#ifndef KPT_KERNELS_QUANT_CPU_DEQUANTIZE_ROWS_H_
#define KPT_KERNELS_QUANT_CPU_DEQUANTIZE_ROWS_H_

#include <cstdint>

#include "kernels/base/dtype.h"
#include "kernels/base/rows.h"
#include "kernels/quant/cpu/strips.h"

namespace kpt::cpu {

// A checked problem. Plain data: files of every instruction set read it.
struct DequantizeJob {
  enum Tensor { kOut, kCodes, kScale, kNumTensors };

  RowPlan<kNumTensors> plan;  // over strips
  Strips strips;
  DType format = DType::kFloat8E4M3FN;
  DType out_dtype = DType::kFloat32;
  const uint8_t* codes = nullptr;
  int64_t codes_step = 0;  // from row to row of a strip, in elements
  void* out = nullptr;
  int64_t out_step = 0;
  const float* scale = nullptr;
  bool stream = false;  // write past the caches
};

// Pieces [begin, end).
using DequantizePiecesFn = void (*)(const DequantizeJob& job, int64_t begin, int64_t end);

#define KPT_DECLARE_DEQUANTIZE(isa)                                            \
  namespace isa {                                                              \
  void DequantizePieces(const DequantizeJob& job, int64_t begin, int64_t end); \
  }
KPT_DECLARE_DEQUANTIZE(baseline)
KPT_DECLARE_DEQUANTIZE(avx2)
KPT_DECLARE_DEQUANTIZE(avx512)
KPT_DECLARE_DEQUANTIZE(avx512_bf16)
#undef KPT_DECLARE_DEQUANTIZE

}  // namespace kpt::cpu

#endif  // KPT_KERNELS_QUANT_CPU_DEQUANTIZE_ROWS_H_

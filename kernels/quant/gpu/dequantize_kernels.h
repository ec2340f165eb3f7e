// The kernels of dequantize_fp8, as its variants start them.
#ifndef KPT_KERNELS_QUANT_GPU_DEQUANTIZE_KERNELS_H_
#define KPT_KERNELS_QUANT_GPU_DEQUANTIZE_KERNELS_H_

#include <cstdint>

#include "kernels/base/backend.h"
#include "kernels/base/dtype.h"
#include "kernels/base/launch_context.h"
#include "kernels/base/rows.h"
#include "kernels/base/status.h"

namespace kpt::KPT_BACKEND {

// A checked problem. A strip is one row, or the 128 rows that share scales.
struct GpuDequantizeJob {
  enum Tensor { kOut, kCodes, kScale, kNumTensors };

  RowPlan<kNumTensors> plan;  // over strips
  int64_t cols = 0;
  int64_t group_cols = 0;  // the row, or 128
  int64_t rows_per_strip = 1;
  int64_t matrix_rows = 1;  // with several rows a strip: what strips are counted over
  int64_t strips_per_matrix = 1;
  int64_t out_step = 0, codes_step = 0;  // from row to row of a strip, in elements
  DType out_dtype = DType::kFloat32;
  DType format = DType::kFloat8E4M3FN;
  void* out = nullptr;
  const uint8_t* codes = nullptr;
  const float* scale = nullptr;
};

// Units of 8 codes that are 8-byte pieces, and of the outputs 16-byte pieces.
Status DequantizeVectors(const LaunchContext& ctx, const GpuDequantizeJob& job);
// Any rows, element by element.
Status DequantizeScalars(const LaunchContext& ctx, const GpuDequantizeJob& job);

}  // namespace kpt::KPT_BACKEND

#endif  // KPT_KERNELS_QUANT_GPU_DEQUANTIZE_KERNELS_H_

// The kernels of quantize_fp8 and quantize_int8, as their variants start them.
#ifndef KPT_KERNELS_QUANT_GPU_QUANTIZE_KERNELS_H_
#define KPT_KERNELS_QUANT_GPU_QUANTIZE_KERNELS_H_

#include <cstdint>

#include "kernels/base/backend.h"
#include "kernels/base/dtype.h"
#include "kernels/base/gpu/row_tiling.h"
#include "kernels/base/launch_context.h"
#include "kernels/base/rows.h"
#include "kernels/base/status.h"
#include "kernels/quant/quant_format.h"

namespace kpt::KPT_BACKEND {

inline constexpr int kQuantMaxThreads = 512;

// A checked problem. A strip is one row, or the 128 rows that share scales; a group is as wide as
// the strip or 128 columns, and has one scale.
struct GpuQuantizeJob {
  enum Tensor { kCodes, kX, kScaleIn, kScaleOut, kZeroIn, kZeroOut, kNumTensors };

  RowPlan<kNumTensors> plan;  // over strips
  int64_t cols = 0;
  int64_t group_cols = 0;
  int64_t groups = 0;  // in a strip
  int64_t rows_per_strip = 1;
  int64_t matrix_rows = 1;  // with several rows a strip: what strips are counted over
  int64_t strips_per_matrix = 1;
  int64_t x_step = 0, codes_step = 0;  // from row to row of a strip, in elements
  DType x_dtype = DType::kFloat32;
  QuantEncoding encoding;
  bool shared = false;       // one scale for all: strips and groups are mere pieces
  bool return_amax = false;  // scale_out gets amax, though the scale is given
  const void* x = nullptr;
  uint8_t* codes = nullptr;
  const float* scale_in = nullptr;  // nullptr: measured
  float* scale_out = nullptr;
  const int32_t* zero_in = nullptr;  // nullptr: 0
  int32_t* zero_out = nullptr;       // nullptr: none
  const char* op = nullptr;          // for messages
};

// Blocks that measure a tensor with one scale, each a part of it.
inline int64_t QuantizeMeasuringBlocks(const LaunchContext& ctx) {
  return int64_t{4} * ctx.device->num_sms;
}
// float [2, QuantizeMeasuringBlocks] where one scale for all, or amax of all, is measured.
inline int64_t QuantizeWorkspaceBytes(const LaunchContext& ctx, const GpuQuantizeJob& job) {
  const bool measures = job.scale_in == nullptr || job.return_amax;
  return job.shared && measures ? QuantizeMeasuringBlocks(ctx) * 8 : 0;
}

// One file of kernels for each way to make codes. Vectors: rows whose units are 16-byte pieces of x
// and 8-byte pieces of the codes. Scalars: any rows, element by element.
Status QuantizeFp8Vectors(const LaunchContext& ctx, const GpuQuantizeJob& job);
Status QuantizeFp8Scalars(const LaunchContext& ctx, const GpuQuantizeJob& job);
Status QuantizeFp8StochasticVectors(const LaunchContext& ctx, const GpuQuantizeJob& job);
Status QuantizeFp8StochasticScalars(const LaunchContext& ctx, const GpuQuantizeJob& job);
Status QuantizeInt8Vectors(const LaunchContext& ctx, const GpuQuantizeJob& job);
Status QuantizeInt8Scalars(const LaunchContext& ctx, const GpuQuantizeJob& job);

}  // namespace kpt::KPT_BACKEND

#endif  // KPT_KERNELS_QUANT_GPU_QUANTIZE_KERNELS_H_

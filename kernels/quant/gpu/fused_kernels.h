// The kernels of fused_norm_quantize and fused_act_quantize, as their variants start them.
#ifndef KPT_KERNELS_QUANT_GPU_FUSED_KERNELS_H_
#define KPT_KERNELS_QUANT_GPU_FUSED_KERNELS_H_

#include <cstdint>

#include "kernels/base/activation_kind.h"
#include "kernels/base/backend.h"
#include "kernels/base/dtype.h"
#include "kernels/base/launch_context.h"
#include "kernels/base/rows.h"
#include "kernels/base/status.h"
#include "kernels/quant/quant_format.h"

namespace kpt::KPT_BACKEND {

// The threads that a row may have.
inline constexpr int kFusedMaxThreads = 512;

// A checked problem.
struct GpuFusedJob {
  enum Tensor { kCodes, kX, kResidual, kSum, kScaleIn, kScaleOut, kNumTensors };

  RowPlan<kNumTensors> plan;
  int64_t cols = 0;     // of the codes
  bool blocks = false;  // a scale for each 128 columns, else for each row
  bool shared = false;  // one given scale for all
  QuantEncoding encoding;
  DType x_dtype = DType::kFloat32;
  const void* x = nullptr;
  uint8_t* codes = nullptr;
  const float* scale_in = nullptr;  // nullptr: measured
  float* scale_out = nullptr;

  // Norms.
  const void* residual = nullptr;  // nullptr: no addition
  void* sum = nullptr;             // with residual: x + residual goes here
  const void* weight = nullptr;    // nullptr: 1
  DType weight_dtype = DType::kFloat32;
  const void* bias = nullptr;  // nullptr: 0
  DType bias_dtype = DType::kFloat32;
  bool subtract_mean = false;  // layer norm, else RMS norm
  float eps = 0.0f;

  // Activations.
  ActivationKind kind = ActivationKind::kNone;
  bool gated = false;  // gate and up are the halves of x's rows
};

// Vectors: rows whose units are 16-byte pieces of the floats and 8-byte pieces of the codes.
// Scalars: any rows, element by element.
Status FusedNormVectors(const LaunchContext& ctx, const GpuFusedJob& job);
Status FusedNormScalars(const LaunchContext& ctx, const GpuFusedJob& job);
Status FusedActVectors(const LaunchContext& ctx, const GpuFusedJob& job);
Status FusedActScalars(const LaunchContext& ctx, const GpuFusedJob& job);

}  // namespace kpt::KPT_BACKEND

#endif  // KPT_KERNELS_QUANT_GPU_FUSED_KERNELS_H_

// fused_norm_quantize: a norm of rows, of x or of x + residual, quantized in the same pass.
//
//   h    x, or x + residual rounded to x's dtype
//   y    rms_norm(h) or layer_norm(h) with weight and bias, kept in float
//   y_q  y quantized as quantize_fp8.h or quantize_int8.h (symmetric) say
#ifndef KPT_KERNELS_QUANT_FUSED_NORM_QUANTIZE_H_
#define KPT_KERNELS_QUANT_FUSED_NORM_QUANTIZE_H_

#include <vector>

#include "kernels/base/backend.h"
#include "kernels/base/launch_context.h"
#include "kernels/base/status.h"
#include "kernels/base/tensor_view.h"
#include "kernels/base/variant.h"
#include "kernels/quant/granularity.h"

namespace kpt::KPT_BACKEND {

struct FusedNormQuantizeArgs {
  MutableTensorView y_q;           // [..., K] E4M3FN, E5M2 or int8: its dtype is the format
  MutableTensorView scale_out;     // float; shape: granularity.h
  MutableTensorView new_residual;  // with residual: h, x's shape and dtype; else not looked at
  TensorView x;                    // [..., K] float, half or bfloat16; rank >= 1
  TensorView weight;               // optional [K], x's dtype or float; absent: 1
  TensorView bias;                 // optional [K], likewise, layer norm only; absent: 0
  TensorView residual;             // optional, x's shape and dtype
  TensorView scale;                // optional, like scale_out; kTensor needs it
  Granularity granularity = Granularity::kRow;  // kTensor, kRow or (fp8) kBlock1x128
  bool subtract_mean = false;                   // layer norm, else RMS norm
  float eps = 1e-6f;
};

// Last dimensions dense, leading strides free; outputs overlap nothing. A row's result does not
// depend on other rows. Fails with kInvalidArgument, kTypeError or kResourceExhausted (no scratch
// memory for a row) before anything is written.
Status FusedNormQuantize(const LaunchContext& ctx, const FusedNormQuantizeArgs& args);

std::vector<VariantInfo> FusedNormQuantizeVariants();

}  // namespace kpt::KPT_BACKEND

#endif  // KPT_KERNELS_QUANT_FUSED_NORM_QUANTIZE_H_

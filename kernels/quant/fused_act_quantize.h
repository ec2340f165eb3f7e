// fused_act_quantize: an activation, or a gated pair, quantized in the same pass.
//
//   y    act(x), or act(gate) * up with the halves of the last dimension (gate first), in float
//   y_q  y quantized as quantize_fp8.h or quantize_int8.h (symmetric) say
#ifndef KPT_KERNELS_QUANT_FUSED_ACT_QUANTIZE_H_
#define KPT_KERNELS_QUANT_FUSED_ACT_QUANTIZE_H_

#include <vector>

#include "kernels/base/activation_kind.h"
#include "kernels/base/backend.h"
#include "kernels/base/launch_context.h"
#include "kernels/base/status.h"
#include "kernels/base/tensor_view.h"
#include "kernels/base/variant.h"
#include "kernels/quant/granularity.h"

namespace kpt::KPT_BACKEND {

struct FusedActQuantizeArgs {
  MutableTensorView y_q;        // [..., K] E4M3FN, E5M2 or int8: its dtype is the format
  MutableTensorView scale_out;  // float; shape: granularity.h
  TensorView x;                 // [..., K], gated [..., 2 K]; float, half or bfloat16; rank >= 1
  TensorView scale;             // optional, like scale_out; kTensor needs it
  Granularity granularity = Granularity::kRow;  // kTensor, kRow or (fp8) kBlock1x128
  ActivationKind kind = ActivationKind::kSilu;  // an elementwise kind
  bool gated = false;
};

// As fused_norm_quantize.h.
Status FusedActQuantize(const LaunchContext& ctx, const FusedActQuantizeArgs& args);

std::vector<VariantInfo> FusedActQuantizeVariants();

}  // namespace kpt::KPT_BACKEND

#endif  // KPT_KERNELS_QUANT_FUSED_ACT_QUANTIZE_H_

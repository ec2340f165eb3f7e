// act_mul: out = act(gate) * up, with gate and up the halves of the last dimension (gate first).
// With silu this is the middle of SwiGLU, with gelu of GEGLU, with sigmoid of GLU (Shazeer 2020).
#ifndef KPT_KERNELS_ACTIVATION_ACT_MUL_H_
#define KPT_KERNELS_ACTIVATION_ACT_MUL_H_

#include <vector>

#include "kernels/base/activation_kind.h"
#include "kernels/base/backend.h"
#include "kernels/base/launch_context.h"
#include "kernels/base/status.h"
#include "kernels/base/tensor_view.h"
#include "kernels/base/variant.h"

namespace kpt::KPT_BACKEND {

struct ActMulArgs {
  MutableTensorView out;                        // [..., N], gate_up's dtype
  TensorView gate_up;                           // [..., 2 N] float, half or bfloat16
  ActivationKind kind = ActivationKind::kSilu;  // silu, gelu, gelu_tanh, relu or sigmoid
};

// Last dimensions dense, leading strides free; out must not overlap gate_up. Computed in float and
// rounded once: act(gate) is not rounded before the product. Special values and errors as act.h.
Status ActMul(const LaunchContext& ctx, const ActMulArgs& args);

std::vector<VariantInfo> ActMulVariants();

}  // namespace kpt::KPT_BACKEND

#endif  // KPT_KERNELS_ACTIVATION_ACT_MUL_H_

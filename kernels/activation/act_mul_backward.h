// act_mul_backward: the gradient of act_mul,
//   grad_gate = grad_out up d act(gate) / d gate and grad_up = grad_out act(gate),
// the halves of the last dimension as gate and up are those of gate_up.
#ifndef KPT_KERNELS_ACTIVATION_ACT_MUL_BACKWARD_H_
#define KPT_KERNELS_ACTIVATION_ACT_MUL_BACKWARD_H_

#include <vector>

#include "kernels/base/activation_kind.h"
#include "kernels/base/backend.h"
#include "kernels/base/launch_context.h"
#include "kernels/base/status.h"
#include "kernels/base/tensor_view.h"
#include "kernels/base/variant.h"

namespace kpt::KPT_BACKEND {

struct ActMulBackwardArgs {
  MutableTensorView grad_gate_up;               // [..., 2 N], gate_up's dtype
  TensorView grad_out;                          // [..., N], gate_up's dtype
  TensorView gate_up;                           // [..., 2 N] float, half or bfloat16
  ActivationKind kind = ActivationKind::kSilu;  // silu, gelu, gelu_tanh, relu or sigmoid
};

// As act_mul.h; grad_gate_up may be exactly gate_up.
Status ActMulBackward(const LaunchContext& ctx, const ActMulBackwardArgs& args);

std::vector<VariantInfo> ActMulBackwardVariants();

}  // namespace kpt::KPT_BACKEND

#endif  // KPT_KERNELS_ACTIVATION_ACT_MUL_BACKWARD_H_

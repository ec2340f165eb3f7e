// linear_act_backward: the gradients of linear_act.
//
//   t = x weight^T + bias,  out = act(t) or act(t[:N]) * t[N:]     (kernels/gemm/linear_act.h)
//   grad_t = grad_out * act'(t);  gated: [grad_out * up * act'(gate), grad_out * act(gate)]
//   grad_x = grad_t weight        grad_weight = grad_t^T x        grad_bias = sum of rows of grad_t
//
// t may be given, as linear_act wrote it: rounded, rows x weight rows of memory between the two
// passes. Else it is computed again, in float and not rounded: a third product, in exchange for
// which a layer holds nothing but its input. Without an activation grad_t is grad_out and there are
// two products. grad_t is rounded to the dtype of x, as eager PyTorch's is, into temporary memory
// of rows x weight rows.
#ifndef KPT_KERNELS_GEMM_LINEAR_ACT_BACKWARD_H_
#define KPT_KERNELS_GEMM_LINEAR_ACT_BACKWARD_H_

#include <vector>

#include "kernels/base/activation_kind.h"
#include "kernels/base/launch_context.h"
#include "kernels/base/status.h"
#include "kernels/base/tensor_view.h"
#include "kernels/base/variant.h"

namespace kpt::cpu {

// All of one dtype: float, half or bfloat16.
struct LinearActBackwardArgs {
  // Those not given are not computed.
  MutableTensorView grad_x;       // [..., K]; rows dense and at one stride
  MutableTensorView grad_weight;  // shape of weight, rows dense
  MutableTensorView grad_bias;    // [weight rows], dense
  TensorView grad_out;            // [..., N]; last dimension dense
  TensorView x;                   // [..., K]; last dimension dense
  TensorView weight;              // [N, K], or [2 N, K] with the gate rows first; rows dense
  TensorView bias;                // optional: [weight rows]; read only for an activation
  TensorView t;                   // optional: [..., weight rows]; last dimension dense
  ActivationKind activation = ActivationKind::kNone;
};

// Any sizes, 0 included. Rows of grad_out and x that no single stride walks are copied first.
// Outputs must not overlap the inputs or each other.
//
// Sums are in float, rounded once; products of bfloat16 as in linear_act.h. A row of grad_x depends
// neither on the number of threads nor on the rows around it, grad_weight and grad_bias only on
// their number. (Up to three rows may be summed more exactly than many.)
//
// Fails with kInvalidArgument or kTypeError before anything is written, or with kResourceExhausted
// when there is no memory for grad_t or for scratch buffers.
Status LinearActBackward(const LaunchContext& ctx, const LinearActBackwardArgs& args);

std::vector<VariantInfo> LinearActBackwardVariants();

}  // namespace kpt::cpu

#endif  // KPT_KERNELS_GEMM_LINEAR_ACT_BACKWARD_H_

// layer_norm_backward: the gradients of layer_norm, and of add_layer_norm.
//
// With rstd = 1 / sqrt(var(x) + eps), n = (x - mean(x)) rstd and g = grad_y weight:
//
//   grad_x      = rstd (g - mean(g) - n mean(g n)) + grad_new_residual
//   grad_weight = sum of grad_y n over the rows
//   grad_bias   = sum of grad_y over the rows
#ifndef KPT_KERNELS_NORM_LAYER_NORM_BACKWARD_H_
#define KPT_KERNELS_NORM_LAYER_NORM_BACKWARD_H_

#include <vector>

#include "kernels/base/backend.h"
#include "kernels/base/launch_context.h"
#include "kernels/base/status.h"
#include "kernels/base/tensor_view.h"
#include "kernels/base/variant.h"

namespace kpt::KPT_BACKEND {

struct LayerNormBackwardArgs {
  MutableTensorView grad_x;       // [..., N], x's shape and dtype
  MutableTensorView grad_weight;  // [N], x's dtype or float; absent or empty: not computed
  MutableTensorView grad_bias;    // [N], x's dtype or float; absent or empty: not computed
  TensorView grad_y;              // [..., N], x's shape and dtype
  TensorView x;                   // [..., N] float, half or bfloat16; rank >= 1
  TensorView weight;              // optional [N], x's dtype or float; absent: 1
  TensorView bias;                // optional [N], x's dtype or float; its values do not matter
  TensorView grad_new_residual;   // optional [..., N], x's shape and dtype: added to grad_x
  float eps = 1e-5f;
};

// The statistics of a row are computed again: x is read in any case, and once it is in the
// first-level cache they cost less than loading them would save. Last dimensions dense, leading
// strides free. grad_x may be exactly one of the inputs of its shape; any other overlap is refused.
// Everything is computed in float and rounded once. The sums over the rows are taken in an order
// that depends on the shape alone, so results do not depend on the threads; a row of grad_x does
// not depend on other rows. Fails with kInvalidArgument, kTypeError or kResourceExhausted before
// anything is written.
Status LayerNormBackward(const LaunchContext& ctx, const LayerNormBackwardArgs& args);

std::vector<VariantInfo> LayerNormBackwardVariants();

}  // namespace kpt::KPT_BACKEND

#endif  // KPT_KERNELS_NORM_LAYER_NORM_BACKWARD_H_

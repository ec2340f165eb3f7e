// rms_norm_backward: the gradients of rms_norm, and of add_rms_norm.
//
// With rstd = 1 / sqrt(mean(x^2) + eps), n = x rstd and g = grad_y weight:
//
//   grad_x      = rstd (g - n mean(g n)) + grad_new_residual
//   grad_weight = sum of grad_y n over the rows
#ifndef KPT_KERNELS_NORM_RMS_NORM_BACKWARD_H_
#define KPT_KERNELS_NORM_RMS_NORM_BACKWARD_H_

#include <vector>

#include "kernels/base/backend.h"
#include "kernels/base/launch_context.h"
#include "kernels/base/status.h"
#include "kernels/base/tensor_view.h"
#include "kernels/base/variant.h"

namespace kpt::KPT_BACKEND {

struct RmsNormBackwardArgs {
  MutableTensorView grad_x;       // [..., N], x's shape and dtype
  MutableTensorView grad_weight;  // [N], x's dtype or float; absent or empty: not computed
  TensorView grad_y;              // [..., N], x's shape and dtype
  TensorView x;                   // [..., N] float, half or bfloat16; rank >= 1
  TensorView weight;              // optional [N], x's dtype or float; absent: 1
  TensorView grad_new_residual;   // optional [..., N], x's shape and dtype: added to grad_x
  float eps = 1e-6f;
};

// Layouts, aliasing, precision and errors as in layer_norm_backward.h.
Status RmsNormBackward(const LaunchContext& ctx, const RmsNormBackwardArgs& args);

std::vector<VariantInfo> RmsNormBackwardVariants();

}  // namespace kpt::KPT_BACKEND

#endif  // KPT_KERNELS_NORM_RMS_NORM_BACKWARD_H_

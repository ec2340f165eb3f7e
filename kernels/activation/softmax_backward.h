// softmax_backward: grad_x = scale out (grad_out - sum(grad_out out)) over the last dimension, with
// out the result of softmax.
#ifndef KPT_KERNELS_ACTIVATION_SOFTMAX_BACKWARD_H_
#define KPT_KERNELS_ACTIVATION_SOFTMAX_BACKWARD_H_

#include <vector>

#include "kernels/base/backend.h"
#include "kernels/base/launch_context.h"
#include "kernels/base/status.h"
#include "kernels/base/tensor_view.h"
#include "kernels/base/variant.h"

namespace kpt::KPT_BACKEND {

struct SoftmaxBackwardArgs {
  MutableTensorView grad_x;  // [..., N], out's shape and dtype
  TensorView grad_out;       // [..., N], out's shape and dtype
  TensorView out;            // [..., N] float, half or bfloat16; rank >= 1
  float scale = 1.0f;
};

// As softmax.h. grad_x may be exactly grad_out or exactly out.
Status SoftmaxBackward(const LaunchContext& ctx, const SoftmaxBackwardArgs& args);

std::vector<VariantInfo> SoftmaxBackwardVariants();

}  // namespace kpt::KPT_BACKEND

#endif  // KPT_KERNELS_ACTIVATION_SOFTMAX_BACKWARD_H_

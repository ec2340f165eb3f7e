// act_backward: grad_x = grad_out * d act(x) / dx. The derivative of relu at 0 is 0, as in PyTorch.
#ifndef KPT_KERNELS_ACTIVATION_ACT_BACKWARD_H_
#define KPT_KERNELS_ACTIVATION_ACT_BACKWARD_H_

#include <vector>

#include "kernels/base/activation_kind.h"
#include "kernels/base/backend.h"
#include "kernels/base/launch_context.h"
#include "kernels/base/status.h"
#include "kernels/base/tensor_view.h"
#include "kernels/base/variant.h"

namespace kpt::KPT_BACKEND {

struct ActBackwardArgs {
  MutableTensorView grad_x;  // x's shape and dtype
  TensorView grad_out;       // x's shape and dtype
  TensorView x;              // any shape; float, half or bfloat16
  ActivationKind kind = ActivationKind::kRelu;
};

// As act.h. grad_x may be exactly grad_out or exactly x.
Status ActBackward(const LaunchContext& ctx, const ActBackwardArgs& args);

std::vector<VariantInfo> ActBackwardVariants();

}  // namespace kpt::KPT_BACKEND

#endif  // KPT_KERNELS_ACTIVATION_ACT_BACKWARD_H_

// act: an elementwise activation.
//
//   relu        max(x, 0)
//   gelu        x Phi(x), Phi the normal distribution function (Hendrycks and Gimpel 2016)
//   gelu_tanh   x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2
//   silu        x sigmoid(x)
//   sigmoid     1 / (1 + exp(-x))
//   tanh        tanh(x)
//   quick_gelu  x sigmoid(1.702 x)
#ifndef KPT_KERNELS_ACTIVATION_ACT_H_
#define KPT_KERNELS_ACTIVATION_ACT_H_

#include <vector>

#include "kernels/base/activation_kind.h"
#include "kernels/base/backend.h"
#include "kernels/base/launch_context.h"
#include "kernels/base/status.h"
#include "kernels/base/tensor_view.h"
#include "kernels/base/variant.h"

namespace kpt::KPT_BACKEND {

struct ActArgs {
  MutableTensorView out;  // x's shape and dtype
  TensorView x;           // any shape; float, half or bfloat16
  ActivationKind kind = ActivationKind::kRelu;
};

// Last dimensions dense, leading strides free. out may be exactly x; any other overlap is refused.
// Computed in float and rounded once. NaN gives NaN; infinities give what PyTorch's formulas give
// in double precision: gelu, gelu_tanh, silu and quick_gelu of -inf are NaN (infinity times zero).
// Fails with kInvalidArgument (also for kNone and the gated kinds) or kTypeError before anything is
// written.
Status Act(const LaunchContext& ctx, const ActArgs& args);

std::vector<VariantInfo> ActVariants();

}  // namespace kpt::KPT_BACKEND

#endif  // KPT_KERNELS_ACTIVATION_ACT_H_

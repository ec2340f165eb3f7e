// softmax: out = exp(scale x - max) / sum(exp(scale x - max)) over the last dimension.
#ifndef KPT_KERNELS_ACTIVATION_SOFTMAX_H_
#define KPT_KERNELS_ACTIVATION_SOFTMAX_H_

#include <vector>

#include "kernels/base/backend.h"
#include "kernels/base/launch_context.h"
#include "kernels/base/status.h"
#include "kernels/base/tensor_view.h"
#include "kernels/base/variant.h"

namespace kpt::KPT_BACKEND {

struct SoftmaxArgs {
  MutableTensorView out;  // [..., N], x's shape and dtype
  TensorView x;           // [..., N] float, half or bfloat16; rank >= 1
  float scale = 1.0f;     // of any sign
};

// Last dimensions dense, leading strides free. out may be exactly x; any other overlap is refused.
// Computed in float and rounded once. As in PyTorch, -inf gives 0 beside a finite element, and a
// row that is all -inf, has +inf or has NaN is all NaN. A row's result does not depend on other
// rows or on the threads. Fails with kInvalidArgument or kTypeError before anything is written.
Status Softmax(const LaunchContext& ctx, const SoftmaxArgs& args);

std::vector<VariantInfo> SoftmaxVariants();

}  // namespace kpt::KPT_BACKEND

#endif  // KPT_KERNELS_ACTIVATION_SOFTMAX_H_

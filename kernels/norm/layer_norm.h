// layer_norm: y = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias over the last dimension, with
// the biased variance (Ba et al. 2016, as torch.nn.functional.layer_norm).
#ifndef KPT_KERNELS_NORM_LAYER_NORM_H_
#define KPT_KERNELS_NORM_LAYER_NORM_H_

#include <vector>

#include "kernels/base/backend.h"
#include "kernels/base/launch_context.h"
#include "kernels/base/status.h"
#include "kernels/base/tensor_view.h"
#include "kernels/base/variant.h"

namespace kpt::KPT_BACKEND {

struct LayerNormArgs {
  MutableTensorView y;  // [..., N], x's shape and dtype
  TensorView x;         // [..., N] float, half or bfloat16; rank >= 1
  TensorView weight;    // optional [N], x's dtype or float; absent: 1
  TensorView bias;      // optional [N], x's dtype or float; absent: 0
  float eps = 1e-5f;
};

// Last dimensions dense, leading strides free. y may be exactly x; any other overlap is refused.
// Everything is computed in float and rounded once. The mean is subtracted before squaring, so a
// large mean costs no accuracy. A row's result does not depend on other rows or on the threads.
// Fails with kInvalidArgument or kTypeError before anything is written.
Status LayerNorm(const LaunchContext& ctx, const LayerNormArgs& args);

std::vector<VariantInfo> LayerNormVariants();

}  // namespace kpt::KPT_BACKEND

#endif  // KPT_KERNELS_NORM_LAYER_NORM_H_

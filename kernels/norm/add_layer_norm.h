// add_layer_norm: new_residual = x + residual, y = layer_norm(new_residual), in one pass.
#ifndef KPT_KERNELS_NORM_ADD_LAYER_NORM_H_
#define KPT_KERNELS_NORM_ADD_LAYER_NORM_H_

#include <vector>

#include "kernels/base/backend.h"
#include "kernels/base/launch_context.h"
#include "kernels/base/status.h"
#include "kernels/base/tensor_view.h"
#include "kernels/base/variant.h"

namespace kpt::KPT_BACKEND {

struct AddLayerNormArgs {
  MutableTensorView y;             // [..., N], x's shape and dtype
  MutableTensorView new_residual;  // [..., N], x's shape and dtype
  TensorView x;                    // [..., N] float, half or bfloat16; rank >= 1
  TensorView residual;             // [..., N], x's shape and dtype
  TensorView weight;               // optional [N], x's dtype or float; absent: 1
  TensorView bias;                 // optional [N], x's dtype or float; absent: 0
  float eps = 1e-5f;
};

// new_residual is the sum rounded to its dtype, and the norm is taken of that rounded sum: the same
// values as `h = x + residual; layer_norm(h)`.
// Each output may be exactly one of x and residual (in place); any other overlap is refused.
// Layouts, precision and errors as in layer_norm.h.
Status AddLayerNorm(const LaunchContext& ctx, const AddLayerNormArgs& args);

std::vector<VariantInfo> AddLayerNormVariants();

}  // namespace kpt::KPT_BACKEND

#endif  // KPT_KERNELS_NORM_ADD_LAYER_NORM_H_

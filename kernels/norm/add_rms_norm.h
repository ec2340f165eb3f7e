// add_rms_norm: new_residual = x + residual, y = rms_norm(new_residual), in one pass.
#ifndef KPT_KERNELS_NORM_ADD_RMS_NORM_H_
#define KPT_KERNELS_NORM_ADD_RMS_NORM_H_

#include <vector>

#include "kernels/base/backend.h"
#include "kernels/base/launch_context.h"
#include "kernels/base/status.h"
#include "kernels/base/tensor_view.h"
#include "kernels/base/variant.h"

namespace kpt::KPT_BACKEND {

struct AddRmsNormArgs {
  MutableTensorView y;             // [..., N], x's shape and dtype
  MutableTensorView new_residual;  // [..., N], x's shape and dtype
  TensorView x;                    // [..., N] float, half or bfloat16; rank >= 1
  TensorView residual;             // [..., N], x's shape and dtype
  TensorView weight;               // optional [N], x's dtype or float; absent: 1
  float eps = 1e-6f;
};

// The sum is rounded first and aliasing is as in add_layer_norm.h; the rest as in layer_norm.h.
Status AddRmsNorm(const LaunchContext& ctx, const AddRmsNormArgs& args);

std::vector<VariantInfo> AddRmsNormVariants();

}  // namespace kpt::KPT_BACKEND

#endif  // KPT_KERNELS_NORM_ADD_RMS_NORM_H_

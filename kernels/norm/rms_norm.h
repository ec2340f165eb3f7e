// rms_norm: y = x / sqrt(mean(x^2) + eps) * weight over the last dimension (Zhang and Sennrich
// 2019, as torch.nn.functional.rms_norm).
#ifndef KPT_KERNELS_NORM_RMS_NORM_H_
#define KPT_KERNELS_NORM_RMS_NORM_H_

#include <vector>

#include "kernels/base/backend.h"
#include "kernels/base/launch_context.h"
#include "kernels/base/status.h"
#include "kernels/base/tensor_view.h"
#include "kernels/base/variant.h"

namespace kpt::KPT_BACKEND {

struct RmsNormArgs {
  MutableTensorView y;  // [..., N], x's shape and dtype
  TensorView x;         // [..., N] float, half or bfloat16; rank >= 1
  TensorView weight;    // optional [N], x's dtype or float; absent: 1
  float eps = 1e-6f;
};

// Layouts, aliasing, precision and errors as in layer_norm.h.
Status RmsNorm(const LaunchContext& ctx, const RmsNormArgs& args);

std::vector<VariantInfo> RmsNormVariants();

}  // namespace kpt::KPT_BACKEND

#endif  // KPT_KERNELS_NORM_RMS_NORM_H_

// probe_product: a large product on the tensor cores, to know what a GPU reaches with this
// library's own building blocks. Not an operator.
#ifndef KPT_KERNELS_PROBE_PRODUCT_H_
#define KPT_KERNELS_PROBE_PRODUCT_H_

#include <vector>

#include "kernels/base/backend.h"
#include "kernels/base/launch_context.h"
#include "kernels/base/status.h"
#include "kernels/base/tensor_view.h"
#include "kernels/base/variant.h"

namespace kpt::KPT_BACKEND {

struct ProbeProductArgs {
  MutableTensorView out;  // [M, N] bfloat16: a b^T, accumulated in float, rounded once
  TensorView a;           // [M, K] bfloat16
  TensorView b;           // [N, K] bfloat16
};

// Row strides and addresses must be multiples of 16 bytes; M, N and K may be any number from 1 on.
// kUnimplemented on a GPU that is not of compute capability 9.0.
Status ProbeProduct(const LaunchContext& ctx, const ProbeProductArgs& args);

std::vector<VariantInfo> ProbeProductVariants();

}  // namespace kpt::KPT_BACKEND

#endif  // KPT_KERNELS_PROBE_PRODUCT_H_

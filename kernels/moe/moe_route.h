// moe_route: which experts a token goes to, and with what weight.
//
//   s = softmax(x) or sigmoid(x)                over the experts, in float
//   v = s + bias, or x without a bias           what experts are chosen by
//   groups: of E / num_groups experts each, the top_groups best stay; a group's worth is its
//           largest v, with a bias the sum of its two largest
//   indices = the top_k largest v that are left, largest first; the lower expert where equal
//   weights = s at the indices, over their sum (plus 1e-20) if renormalize; times scale
//
// Group-limited selection and the bias: DeepSeek-V2, section 2.1.2, and DeepSeek-V3, section 2.1.2.
#ifndef KPT_KERNELS_MOE_MOE_ROUTE_H_
#define KPT_KERNELS_MOE_MOE_ROUTE_H_

#include <vector>

#include "kernels/base/launch_context.h"
#include "kernels/base/status.h"
#include "kernels/base/tensor_view.h"
#include "kernels/base/variant.h"

namespace kpt {

enum class RouteScore { kSoftmax, kSigmoid };

// "softmax" or "sigmoid"; false otherwise.
bool ParseRouteScore(const char* name, RouteScore* score);

namespace cpu {

struct MoeRouteArgs {
  MutableTensorView weights;  // [T, top_k], dtype of logits, rows dense
  MutableTensorView indices;  // [T, top_k] int64, rows dense
  TensorView logits;          // [T, E] float, half or bfloat16, rows dense
  TensorView bias;            // optional [E] float
  RouteScore score = RouteScore::kSoftmax;
  bool renormalize = true;
  int64_t num_groups = 1;
  int64_t top_groups = 1;
  float scale = 1.0f;
};

// A row depends on nothing but its logits. NaN is larger than all numbers when experts are chosen,
// and spreads to the weights as the formulas have it.
Status MoeRoute(const LaunchContext& ctx, const MoeRouteArgs& args);
std::vector<VariantInfo> MoeRouteVariants();

struct MoeRouteBackwardArgs {
  MutableTensorView grad_logits;  // [T, E], dtype of logits, rows dense
  TensorView grad_weights;        // [T, top_k], dtype of logits, rows dense
  TensorView logits;              // [T, E], rows dense
  TensorView indices;             // [T, top_k] int64, in [0, E), each once in a row
  RouteScore score = RouteScore::kSoftmax;
  bool renormalize = true;
  float scale = 1.0f;
};

// The choice itself has no gradient: experts that were not chosen get one through softmax alone.
Status MoeRouteBackward(const LaunchContext& ctx, const MoeRouteBackwardArgs& args);
std::vector<VariantInfo> MoeRouteBackwardVariants();

}  // namespace cpu
}  // namespace kpt

#endif  // KPT_KERNELS_MOE_MOE_ROUTE_H_

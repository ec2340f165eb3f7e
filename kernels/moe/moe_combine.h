// moe_combine: what the experts made of a token, weighted and added.
//
//   out[t] = sum over j of weights[t, j] y[row_of[t, j]]      in float, in the order of j;
//                                                             where row_of is -1 there is nothing
#ifndef KPT_KERNELS_MOE_MOE_COMBINE_H_
#define KPT_KERNELS_MOE_MOE_COMBINE_H_

#include <vector>

#include "kernels/base/launch_context.h"
#include "kernels/base/status.h"
#include "kernels/base/tensor_view.h"
#include "kernels/base/variant.h"

namespace kpt::cpu {

struct MoeCombineArgs {
  MutableTensorView out;  // [T, D], dtype of y, rows dense
  TensorView y;           // [R, D] float, half or bfloat16, rows dense
  TensorView row_of;      // [T, K] int64, rows dense, -1 or in [0, R)
  TensorView weights;     // [T, K], dtype of y or float, rows dense
};

Status MoeCombine(const LaunchContext& ctx, const MoeCombineArgs& args);
std::vector<VariantInfo> MoeCombineVariants();

struct MoeCombineBackwardArgs {
  MutableTensorView grad_y;        // optional: [R, D], dtype of y, rows dense
  MutableTensorView grad_weights;  // optional: [T, K], dtype of weights, rows dense
  TensorView grad_out;             // [T, D], dtype of y, rows dense
  TensorView y;                    // [R, D], rows dense
  TensorView row_of;               // [T, K] int64, rows dense, -1 or in [0, R)
  TensorView weights;              // [T, K], dtype of y or float, rows dense
};

// grad_y of a row sums over its readers in their order, and is 0 for a row without one;
// grad_weights is the product of two rows, and 0 where there is none.
Status MoeCombineBackward(const LaunchContext& ctx, const MoeCombineBackwardArgs& args);
std::vector<VariantInfo> MoeCombineBackwardVariants();

}  // namespace kpt::cpu

#endif  // KPT_KERNELS_MOE_MOE_COMBINE_H_

// moe_dispatch: the tokens of each expert together, for one product per expert.
//
//   rows of permuted: for each expert in order, the tokens that go to it, in order
//   offsets[e]        where expert e's rows end
//   row_of[t, j]      the row of token t's j-th choice
//
// With a capacity an expert takes that many: first choices before second ones, tokens in order. The
// others are dropped: their row_of is -1. Rows past the last offset are 0.
#ifndef KPT_KERNELS_MOE_MOE_DISPATCH_H_
#define KPT_KERNELS_MOE_MOE_DISPATCH_H_

#include <vector>

#include "kernels/base/launch_context.h"
#include "kernels/base/status.h"
#include "kernels/base/tensor_view.h"
#include "kernels/base/variant.h"

namespace kpt::cpu {

struct MoeDispatchArgs {
  MutableTensorView permuted;  // [R, D], dtype of x, rows dense; R = T K, or as many as can be kept
  MutableTensorView offsets;   // [num_experts] int32, dense
  MutableTensorView row_of;    // [T, K] int64, rows dense
  TensorView x;                // [T, D] float, half or bfloat16, rows dense
  TensorView indices;          // [T, K] int64, rows dense, in [0, num_experts)
  int64_t num_experts = 0;
  int64_t capacity = -1;  // negative: any number
};

// R is min(T K, num_experts capacity) with a capacity.
Status MoeDispatch(const LaunchContext& ctx, const MoeDispatchArgs& args);
std::vector<VariantInfo> MoeDispatchVariants();

}  // namespace kpt::cpu

#endif  // KPT_KERNELS_MOE_MOE_DISPATCH_H_

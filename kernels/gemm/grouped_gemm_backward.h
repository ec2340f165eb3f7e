// grouped_gemm_backward: the gradients of grouped_gemm (kernels/gemm/grouped_gemm.h).
//
//   grad_x[r] = grad_out[r] weight[g]             for r in group g; 0 past the last offset
//   grad_weight[g] = (grad_out rows of g)^T (x rows of g); 0 for an empty group
#ifndef KPT_KERNELS_GEMM_GROUPED_GEMM_BACKWARD_H_
#define KPT_KERNELS_GEMM_GROUPED_GEMM_BACKWARD_H_

#include <vector>

#include "kernels/base/launch_context.h"
#include "kernels/base/status.h"
#include "kernels/base/tensor_view.h"
#include "kernels/base/variant.h"

namespace kpt::cpu {

// All but offsets of one dtype: float, half or bfloat16; last dimensions dense.
struct GroupedGemmBackwardArgs {
  // Those not given are not computed.
  MutableTensorView grad_x;       // [T, K]
  MutableTensorView grad_weight;  // [E, N, K]
  TensorView grad_out;            // [T, N]
  TensorView x;                   // [T, K]
  TensorView weight;              // [E, N, K]
  TensorView offsets;             // [E] int32, as in grouped_gemm.h
  bool masked = false;
};

// Any sizes, 0 included. Outputs must not overlap the inputs or each other. Sums are in float,
// rounded once; products of bfloat16 as in linear_act.h. A group's gradients are those of
// linear_act_backward on the group alone, whatever the other groups and the thread count.
//
// Fails with kInvalidArgument or kTypeError before anything is written, or with kResourceExhausted
// when there is no scratch memory.
Status GroupedGemmBackward(const LaunchContext& ctx, const GroupedGemmBackwardArgs& args);

std::vector<VariantInfo> GroupedGemmBackwardVariants();

}  // namespace kpt::cpu

#endif  // KPT_KERNELS_GEMM_GROUPED_GEMM_BACKWARD_H_

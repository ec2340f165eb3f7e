// grouped_gemm: one weight for each group of consecutive rows, as a mixture of experts has it.
//
//   group g is rows [offsets[g - 1], offsets[g]) of x (from 0 for the first); masked, with slots of
//   C = T / E rows, rows [g C, g C + offsets[g])
//   out[r] = x[r] weight[g]^T  for r in group g;   0 for rows of no group
#ifndef KPT_KERNELS_GEMM_GROUPED_GEMM_H_
#define KPT_KERNELS_GEMM_GROUPED_GEMM_H_

#include <vector>

#include "kernels/base/launch_context.h"
#include "kernels/base/status.h"
#include "kernels/base/tensor_view.h"
#include "kernels/base/variant.h"

namespace kpt::cpu {

struct GroupedGemmArgs {
  MutableTensorView out;  // [T, N], dtype of x; rows dense
  TensorView x;           // [T, K]; float, half or bfloat16; rows dense
  TensorView weight;      // [E, N, K], dtype of x; rows dense
  TensorView offsets;     // [E] int32: where each group ends, not decreasing, 0 to T; masked: how
                          // many rows of its slot a group has, 0 to C
  bool masked = false;
};

// Any sizes, 0 included; a group may be empty. out must not overlap the inputs.
//
// A group's rows are computed by the kernel that linear_act would choose for as many rows: the bits
// are those of linear_act on the group alone, whatever the other groups and the thread count. A
// variant's name is the highest instruction set that it chooses from.
//
// Fails with kInvalidArgument or kTypeError before anything is written, or with kResourceExhausted
// when there is no scratch memory (some rows may then be written).
Status GroupedGemm(const LaunchContext& ctx, const GroupedGemmArgs& args);

std::vector<VariantInfo> GroupedGemmVariants();

}  // namespace kpt::cpu

#endif  // KPT_KERNELS_GEMM_GROUPED_GEMM_H_

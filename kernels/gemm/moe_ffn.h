// moe_ffn: the feed-forward experts of a mixture, each over the tokens that chose it.
//
//   h[t, j] = act(x[t] w_in[e]^T + b_in[e])       e = indices[t, j]; rounded to the dtype of x
//   out[t]  = sum over j of weights[t, j] (h[t, j] w_out[e]^T + b_out[e])     in float, rounded
//   once
//
// Gated activations (swiglu, geglu): w_in[e] has the rows of the gate first, then those of the
// other factor. Weights of 8 bits stand for their value times a scale: of the expert ([E]), or of
// each of its rows ([E, rows]).
#ifndef KPT_KERNELS_GEMM_MOE_FFN_H_
#define KPT_KERNELS_GEMM_MOE_FFN_H_

#include <vector>

#include "kernels/base/activation_kind.h"
#include "kernels/base/launch_context.h"
#include "kernels/base/status.h"
#include "kernels/base/tensor_view.h"
#include "kernels/base/variant.h"

namespace kpt::cpu {

struct MoeFfnArgs {
  MutableTensorView out;  // [T, D], dtype of x, rows dense
  TensorView x;           // [T, D] float, half or bfloat16, rows dense
  TensorView w_in;        // [E, F or 2 F, D], dtype of x, int8 or fp8; rows dense
  TensorView w_out;       // [E, D, F], dtype of w_in, rows dense
  TensorView weights;     // [T, K], dtype of x or float, rows dense
  TensorView indices;     // [T, K] int64, rows dense, in [0, E)
  TensorView b_in;        // optional [E, F or 2 F], dtype of x, rows dense
  TensorView b_out;       // optional [E, D], dtype of x, rows dense
  TensorView s_in;        // weights of 8 bits: [E] or [E, F or 2 F] float, dense
  TensorView s_out;       // [E] or [E, D] float, dense
  ActivationKind activation = ActivationKind::kSilu;
};

// Any sizes, 0 included. out must not overlap the inputs. Weights of experts that no token chose
// are not read.
//
// A token's bits depend on its row, its weights and experts, and the sizes of the call: neither on
// the other tokens, nor on what they chose, nor on the number of threads. Where there are few
// tokens an expert (T K <= 16 E, at most 512) or few at all, sums run in another order than for
// many.
//
// Fails with kInvalidArgument or kTypeError before anything is written, or with kResourceExhausted
// when there is no scratch memory.
Status MoeFfn(const LaunchContext& ctx, const MoeFfnArgs& args);

std::vector<VariantInfo> MoeFfnVariants();

}  // namespace kpt::cpu

#endif  // KPT_KERNELS_GEMM_MOE_FFN_H_

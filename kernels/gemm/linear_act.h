// linear_act: a linear layer and what follows it, in one pass over x.
//
//   t = x weight^T + bias                    [..., N]; gated: [..., 2 N]
//   out = act(t)                             none, relu, gelu, gelu_tanh, silu
//   out = act(t[..., :N]) * t[..., N:]       swiglu (act = silu), geglu (act = gelu)
//
// Sums and activations are computed in float and rounded once, to the dtype of out: unlike in two
// separate operators, t itself is never rounded. Formulas of the activations, and what they make of
// infinities and NaN: kernels/activation/act.h.
#ifndef KPT_KERNELS_GEMM_LINEAR_ACT_H_
#define KPT_KERNELS_GEMM_LINEAR_ACT_H_

#include <vector>

#include "kernels/base/activation_kind.h"
#include "kernels/base/launch_context.h"
#include "kernels/base/status.h"
#include "kernels/base/tensor_view.h"
#include "kernels/base/variant.h"

namespace kpt::cpu {

struct LinearActArgs {
  const char* op = "linear_act";  // what errors name
  MutableTensorView out;          // [..., N], dtype of x; rows dense and at one stride
  MutableTensorView t;  // optional: [..., weight rows], dtype of x; rows dense and at one stride
  TensorView x;         // [..., K]; float, half or bfloat16; last dimension dense
  TensorView weight;    // [N, K], or [2 N, K] with the gate rows first; dtype of x; rows dense
  TensorView bias;      // optional: [N] or [2 N], dtype of x
  ActivationKind activation = ActivationKind::kNone;
};

// Any sizes, 0 included (with K = 0 the sums are the bias). Leading dimensions of x may have any
// strides: rows that no single stride walks are copied first. out and t must overlap neither the
// inputs nor each other. t, where it is asked for, is rounded once; out is made from sums in float
// as ever.
//
// Order of summation, and with it the last bits: within a variant a row of out depends neither on
// the number of threads nor on the rows around it. "amx_bf16" serves every M. The other variants
// come in pairs, "..._rows" for at most 32 rows (16 for bf16 pairs) and "..._panels" above, which
// sum in different orders: below AMX a row's last bits may change when M crosses that number.
//
// bfloat16 products are of bf16 pairs summed in float where the CPU has them (AMX, AVX512-BF16);
// these instructions take subnormal inputs and sums as zero. Everything else is float throughout.
//
// Fails with kInvalidArgument or kTypeError before anything is written, or with kResourceExhausted
// when there is no scratch memory.
Status LinearAct(const LaunchContext& ctx, const LinearActArgs& args);

std::vector<VariantInfo> LinearActVariants();

}  // namespace kpt::cpu

#endif  // KPT_KERNELS_GEMM_LINEAR_ACT_H_

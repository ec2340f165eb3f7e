// attention_backward: the gradients of attention_forward, without ever storing the scores.
//
// With s, p, the visible keys and the options of attention_forward.h, x[i, j] = dot(q[i], k[j]):
//   p[i, j]   = exp(s[i, j] - lse[i])                           for the visible pairs, else 0
//   delta[i]  = sum_c grad_out[i, c] * out[i, c] - grad_lse[i]
//   ds[i, j]  = p[i, j] * (dot(grad_out[i], v[j]) - delta[i]) * ds/dx / scale
//   grad_v[j] = sum_i p[i, j] * grad_out[i]
//   grad_q[i] = scale * sum_j ds[i, j] * k[j],   grad_k[j] = scale * sum_i ds[i, j] * q[i]
// where ds/dx / scale is 1, or 1 - tanh(scale / softcap * x)^2 when softcap > 0. The sums of grad_k
// and grad_v go over the query heads that share the key head as well.
//
// A sink enters through lse and out alone. What the gradients of sinks, masks and slopes are
// follows from these formulas too, but they are not computed here.
//
// The formula is that of Dao et al., "FlashAttention-2" (2023): p is computed again from lse.
#ifndef KPT_KERNELS_ATTENTION_ATTENTION_BACKWARD_H_
#define KPT_KERNELS_ATTENTION_ATTENTION_BACKWARD_H_

#include <vector>

#include "kernels/attention/attention_options.h"
#include "kernels/base/backend.h"
#include "kernels/base/launch_context.h"
#include "kernels/base/status.h"
#include "kernels/base/tensor_view.h"
#include "kernels/base/variant.h"

namespace kpt::KPT_BACKEND {

// Every last dim but those of lse and grad_lse must be dense; all other strides are free.
struct AttentionBackwardArgs : AttentionOptions {
  MutableTensorView grad_q;  // as q; no overlap with any input or another gradient
  MutableTensorView grad_k;  // as k
  MutableTensorView grad_v;  // as v
  TensorView grad_out;       // as out
  TensorView q;              // [B, Hq, Sq, D], float32, float16 or bfloat16
  TensorView k;              // [B, Hkv, Sk, D], dtype of q
  TensorView v;              // [B, Hkv, Sk, Dv], dtype of q
  TensorView out;            // [B, Hq, Sq, Dv], dtype of q, what attention_forward returned
  TensorView lse;            // [B, Hq, Sq], float32, what attention_forward returned
  TensorView grad_lse;       // [B, Hq, Sq], float32; may be absent: zeros
};

// Sums are taken in an order that depends on the lengths of the entry alone: the gradients of an
// entry depend neither on the number of threads nor on the rest of the batch.
//
// InvalidArgument or TypeError for arguments that break the contract; Unimplemented for D or Dv
// above 256 or of 0; ResourceExhausted without memory for one head's packed rows and sums (the
// gradients are then undefined).
Status AttentionBackward(const LaunchContext& ctx, const AttentionBackwardArgs& args);

std::vector<VariantInfo> AttentionBackwardVariants();

}  // namespace kpt::KPT_BACKEND

#endif  // KPT_KERNELS_ATTENTION_ATTENTION_BACKWARD_H_

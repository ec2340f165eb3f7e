// attention_forward: softmax(scale * Q K^T + bias) V, without ever storing the scores.
//
//   s[i, j] = scale * dot(q[i], k[j])                          scale: 1 / sqrt(D) when not given
//   s = softcap * tanh(s / softcap)                            when softcap > 0
//   s = s + mask[i, j] - alibi_slope * |i + Sk - Sq - j|       where given
//   p[i, j] = exp(s[i, j]) / (exp(sink) + sum_j exp(s[i, j]))  over the visible keys j of query i
//   out[i] = sum_j p[i, j] v[j],    lse[i] = log(exp(sink) + sum_j exp(s[i, j]))
//
// Query i stands at position i + Sk - Sq of the key sequence (bottom-right alignment). Key j is
// visible to query i when all of these hold:
//   is_causal:     j <= i + Sk - Sq, or j < prefix_len
//   window_left:   j >= i + Sk - Sq - window_left, where window_left >= 0
//   window_right:  j <= i + Sk - Sq + window_right, where window_right >= 0
//   a boolean mask is true at (i, j); an additive mask is above -inf at (i, j)
//   q_doc[i] == k_doc[j], where given
// A query with no visible key and no sink gives out = 0 and lse = -inf.
//
// The formula is that of Dao et al., "FlashAttention-2" (2023): an online softmax over key blocks.
#ifndef KPT_KERNELS_ATTENTION_ATTENTION_FORWARD_H_
#define KPT_KERNELS_ATTENTION_ATTENTION_FORWARD_H_

#include <vector>

#include "kernels/attention/attention_options.h"
#include "kernels/base/backend.h"
#include "kernels/base/launch_context.h"
#include "kernels/base/status.h"
#include "kernels/base/tensor_view.h"
#include "kernels/base/variant.h"

namespace kpt::KPT_BACKEND {

// Every last dim of q, k, v and out is dense; all other strides are free (0 for expanded inputs).
struct AttentionForwardArgs : AttentionOptions {
  MutableTensorView out;  // [B, Hq, Sq, Dv], dtype of q; no overlap with any input
  MutableTensorView lse;  // [B, Hq, Sq], float32, natural logarithm, any strides
  TensorView q;           // [B, Hq, Sq, D], float32, float16 or bfloat16
  TensorView k;           // [B, Hkv, Sk, D], dtype of q; Hq a multiple of Hkv (GQA, MQA)
  TensorView v;           // [B, Hkv, Sk, Dv], dtype of q
};

// The result for a query depends on nothing but its own head: not on the number of threads, not on
// the rest of the batch. bfloat16 products are accumulated in float; P is rounded to the type the
// matrix instructions take (bfloat16 in the bf16 variants, float elsewhere).
//
// InvalidArgument or TypeError for arguments that break the contract; Unimplemented for D or Dv
// above 256 or of 0; ResourceExhausted without memory for one head's packed keys and values (out
// and lse are then undefined).
Status AttentionForward(const LaunchContext& ctx, const AttentionForwardArgs& args);

std::vector<VariantInfo> AttentionForwardVariants();

}  // namespace kpt::KPT_BACKEND

#endif  // KPT_KERNELS_ATTENTION_ATTENTION_FORWARD_H_

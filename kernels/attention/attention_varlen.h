// attention_varlen_forward, attention_varlen_backward: attention over packed sequences.
//
// The sequences of a batch lie one after another without padding: sequence n has queries
// [cu_seqlens_q[n], cu_seqlens_q[n + 1]) and keys [cu_seqlens_k[n], cu_seqlens_k[n + 1]), and sees
// nothing else. For each of them the formulas are those of attention_forward.h and
// attention_backward.h, with its own lengths. A length may be 0.
#ifndef KPT_KERNELS_ATTENTION_ATTENTION_VARLEN_H_
#define KPT_KERNELS_ATTENTION_ATTENTION_VARLEN_H_

#include <cstdint>
#include <vector>

#include "kernels/attention/attention_options.h"
#include "kernels/base/backend.h"
#include "kernels/base/launch_context.h"
#include "kernels/base/status.h"
#include "kernels/base/tensor_view.h"
#include "kernels/base/variant.h"

namespace kpt::KPT_BACKEND {

// Every last dim of rank-3 tensors is dense; all other strides are free. Of the options there is no
// mask; alibi_slopes are [Hq] or [N, Hq], q_doc [Tq] and k_doc [Tk].
struct PackedSequences : AttentionOptions {
  TensorView q;              // [Tq, Hq, D], float32, float16 or bfloat16
  TensorView k;              // [Tk, Hkv, D], dtype of q
  TensorView v;              // [Tk, Hkv, Dv], dtype of q
  TensorView cu_seqlens_q;   // [N + 1], int32: from 0 to Tq, never falling
  TensorView cu_seqlens_k;   // [N + 1], int32: from 0 to Tk, never falling
  int64_t max_seqlen_q = 0;  // no sequence is longer
  int64_t max_seqlen_k = 0;
};

struct AttentionVarlenForwardArgs : PackedSequences {
  MutableTensorView out;  // [Tq, Hq, Dv], dtype of q; no overlap with any input
  MutableTensorView lse;  // [Hq, Tq], float32, any strides
};

struct AttentionVarlenBackwardArgs : PackedSequences {
  MutableTensorView grad_q;  // as q; no overlap with any input or another gradient
  MutableTensorView grad_k;  // as k
  MutableTensorView grad_v;  // as v
  TensorView grad_out;       // as out
  TensorView out;            // [Tq, Hq, Dv], dtype of q, what attention_varlen_forward returned
  TensorView lse;            // [Hq, Tq], float32, what attention_varlen_forward returned
  TensorView grad_lse;       // [Hq, Tq], float32; may be absent: zeros
};

// The results of a sequence depend on nothing but that sequence. Errors are those of
// attention_forward.h and attention_backward.h, with InvalidArgument for cu_seqlens that are not as
// said above.
Status AttentionVarlenForward(const LaunchContext& ctx, const AttentionVarlenForwardArgs& args);
Status AttentionVarlenBackward(const LaunchContext& ctx, const AttentionVarlenBackwardArgs& args);

std::vector<VariantInfo> AttentionVarlenForwardVariants();
std::vector<VariantInfo> AttentionVarlenBackwardVariants();

}  // namespace kpt::KPT_BACKEND

#endif  // KPT_KERNELS_ATTENTION_ATTENTION_VARLEN_H_

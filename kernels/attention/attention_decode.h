// attention_decode, attention_paged: a few new query tokens against a key-value cache.
//
// The formula is that of attention_forward.h, causal, for each batch entry b with its own number of
// keys n = seq_lens[b], of which the last Sq belong to the queries themselves: query i stands at
// position p = n - Sq + i and sees key j when
//   j <= p, and j >= p - window_left where window_left >= 0.
//   s[i, j] = scale * dot(q[i], k[j]),  softcap * tanh(s / softcap) when softcap > 0,
//   then - alibi_slope * (p - j) where given; k[j] and v[j] are what the cache stores, times its
//   scale where given.
// A query with no visible key and no sink gives 0.
//
// The keys are cut into pieces whose number depends on n and window_left alone; each is an online
// softmax of its own, and the pieces are put together in order ("Flash-Decoding", Dao et al. 2023).
// So one sequence feeds every thread, and a result depends neither on the number of threads nor on
// the rest of the batch.
#ifndef KPT_KERNELS_ATTENTION_ATTENTION_DECODE_H_
#define KPT_KERNELS_ATTENTION_ATTENTION_DECODE_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "kernels/base/backend.h"
#include "kernels/base/launch_context.h"
#include "kernels/base/status.h"
#include "kernels/base/tensor_view.h"
#include "kernels/base/variant.h"

namespace kpt::KPT_BACKEND {

// Every last dim of q, k, v and out is dense; all other strides are free.
struct AttentionDecodeArgs {
  MutableTensorView out;  // [B, Hq, Sq, Dv], dtype of q; no overlap with any input
  TensorView q;           // [B, Hq, Sq, D], float32, float16 or bfloat16; Sq up to 8
  TensorView k;           // [B, Hkv, capacity, D], dtype of q, int8 or float8_e4m3fn
  TensorView v;           // [B, Hkv, capacity, Dv], dtype of k
  TensorView seq_lens;    // [B], int32 or int64, from 0 to the capacity
  TensorView k_scale;     // float32, broadcasts to [B, Hkv, capacity], any strides
  TensorView v_scale;
  std::optional<float> scale;  // 1 / sqrt(D) when not given
  int64_t window_left = -1;
  float softcap = 0.0f;
  TensorView alibi_slopes;  // [Hq], float32
  TensorView sinks;         // [Hq], float32

  // Queries turn by these angles first, as rope.h says (not inverse): [Sq, R], [1, Sq, R] or
  // [B, Sq, R], float32 or q's dtype. The keys in the cache are turned already.
  TensorView cos;
  TensorView sin;
  bool interleaved = false;

  // attention_paged: k [pages, Hkv, page, D], v [pages, Hkv, page, Dv], scales that broadcast to
  // [pages, Hkv, page], and the page of token t of entry b at block_table[b, t / page].
  TensorView block_table;  // [B, any], int32
};

// InvalidArgument or TypeError for arguments that break the contract, lengths and pages out of
// range among them (a GPU, where only the device could look at those, gives NaN for such an entry);
// Unimplemented for D or Dv above 256 or of 0; ResourceExhausted without memory for the pieces'
// results (out is then undefined).
Status AttentionDecode(const LaunchContext& ctx, const AttentionDecodeArgs& args);
Status AttentionPaged(const LaunchContext& ctx, const AttentionDecodeArgs& args);

std::vector<VariantInfo> AttentionDecodeVariants();

}  // namespace kpt::KPT_BACKEND

#endif  // KPT_KERNELS_ATTENTION_ATTENTION_DECODE_H_

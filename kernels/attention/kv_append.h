// kv_append, kv_append_quantize: new keys and values into a key-value cache.
//
// Token i of the S new ones of batch entry b goes to position seq_lens[b] - S + i, which is where
// attention_decode.h looks for it: the lengths count the new tokens already. Keys turn first by the
// angles of their positions where these are given (rope.h). What is stored is
//   round(x * (1 / scale)), both in float,
// in the cache's dtype: to nearest even; int8 saturates to [-127, 127] and has 0 for NaN,
// float8_e4m3fn saturates to 448 and keeps NaN. The scale is 1 where none is given. Every other
// element of the cache stays.
//
// kv_append_quantize measures the scale of each token and head and stores that too:
//   max |x| / 127 for int8, / 448 for float8_e4m3fn, but at least 2^-126; 1 for zeros;
//   NaN (with codes 0) for int8 when some x is infinite or NaN;
//   NaN for float8_e4m3fn when some x is infinite, NaN being left out of the maximum.
#ifndef KPT_KERNELS_ATTENTION_KV_APPEND_H_
#define KPT_KERNELS_ATTENTION_KV_APPEND_H_

#include <vector>

#include "kernels/base/launch_context.h"
#include "kernels/base/status.h"
#include "kernels/base/tensor_view.h"
#include "kernels/base/variant.h"

namespace kpt::cpu {

// Every last dim is dense, but of scales and tables; other strides are free.
struct KvAppendArgs {
  // Exactly k_cache and v_cache, which then change in place (they may be parts of one tensor, such
  // as its even and odd pages); or apart from every input, and then all of the cache is copied.
  MutableTensorView out_k;
  MutableTensorView out_v;
  // kv_append_quantize: likewise k_scale and v_scale.
  MutableTensorView out_k_scale;
  MutableTensorView out_v_scale;

  TensorView k;         // [B, Hkv, S, D] float32, float16 or bfloat16
  TensorView v;         // [B, Hkv, S, Dv], dtype of k
  TensorView k_cache;   // [B, Hkv, capacity, D], dtype of k, int8 or float8_e4m3fn; with a block
                        // table [pages, Hkv, page, D]
  TensorView v_cache;   // likewise with Dv, dtype of k_cache
  TensorView seq_lens;  // [B], int32 or int64, from S to the capacity
  // [B, any], int32: the page of token t of entry b is block_table[b, t / page]. No two entries for
  // new tokens may name the same page.
  TensorView block_table;
  // float32. kv_append: broadcast to the first three dimensions of the cache. kv_append_quantize:
  // have these dimensions.
  TensorView k_scale;
  TensorView v_scale;
  TensorView cos;  // as in attention_decode.h, for the keys
  TensorView sin;
  bool interleaved = false;
};

// InvalidArgument or TypeError for arguments that break the contract, lengths and pages out of
// range among them, before anything is written; Unimplemented for D or Dv above 256.
Status KvAppend(const LaunchContext& ctx, const KvAppendArgs& args);
Status KvAppendQuantize(const LaunchContext& ctx, const KvAppendArgs& args);

std::vector<VariantInfo> KvAppendVariants();

}  // namespace kpt::cpu

#endif  // KPT_KERNELS_ATTENTION_KV_APPEND_H_

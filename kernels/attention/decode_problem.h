// The plain data of attention_decode, for kernels of every backend.
#ifndef KPT_KERNELS_ATTENTION_DECODE_PROBLEM_H_
#define KPT_KERNELS_ATTENTION_DECODE_PROBLEM_H_

#include <cstdint>

#include "kernels/attention/cache_places.h"
#include "kernels/attention/flash_problem.h"
#include "kernels/base/dtype.h"

namespace kpt {

inline constexpr int kDecodeMaxDim = kFlashMaxDim;
inline constexpr int kDecodeMaxQueries = 8;

// One of the caches. Strides in elements; batch is the stride of pages where there are pages.
struct DecodeCache {
  const void* data;
  HeadStrides stride;
  const float* scale;  // nullptr: none
  HeadStrides scale_stride;
};

// attention_decode.h with everything checked and resolved.
struct DecodeProblem : CachePlaces {
  const void* q;
  void* out;
  HeadStrides q_stride, out_stride;
  DType dtype, cache_dtype;
  DecodeCache k, v;
  Rotation rotation;  // of q
  int64_t batch, heads_q, heads_kv, seqlen_q, dim_qk, dim_v;
  float scale, softcap;
  int64_t window_left;
  const float* alibi;  // nullptr: none
  int64_t alibi_stride;
  const float* sinks;  // nullptr: none
  int64_t sinks_stride;
};

}  // namespace kpt

#endif  // KPT_KERNELS_ATTENTION_DECODE_PROBLEM_H_

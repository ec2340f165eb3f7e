// The plain data that pass between the driver of attention_forward and its per-ISA kernels.
//
// Included by files compiled for different instruction sets: every function is static.
#ifndef KPT_KERNELS_ATTENTION_CPU_FLASH_PROBLEM_H_
#define KPT_KERNELS_ATTENTION_CPU_FLASH_PROBLEM_H_

#include <cstddef>
#include <cstdint>

#include "kernels/base/dtype.h"

namespace kpt::cpu {

inline constexpr int kFlashMaxDim = 256;  // of D and of Dv

// Strides in elements; the innermost one is 1.
struct HeadStrides {
  int64_t batch;
  int64_t head;
  int64_t row;
};

// attention_forward.h with everything checked and resolved.
struct FlashProblem {
  const void* q;
  const void* k;
  const void* v;
  void* out;
  float* lse;
  HeadStrides q_stride, k_stride, v_stride, out_stride, lse_stride;
  DType dtype;
  int64_t batch, heads_q, heads_kv, seqlen_q, seqlen_k, dim_qk, dim_v;
  float scale, softcap;
  bool is_causal;
  int64_t window_left, window_right, prefix_len;

  const void* mask;  // nullptr: none
  DType mask_dtype;
  HeadStrides mask_stride;  // 0 where broadcast
  int64_t mask_key_stride;

  const float* alibi;  // nullptr: none
  int64_t alibi_batch_stride, alibi_head_stride;
  const float* sinks;  // nullptr: none
  int64_t sinks_stride;
  const void* q_doc;  // nullptr: none
  const void* k_doc;
  DType doc_dtype;
  int64_t q_doc_batch, q_doc_row, k_doc_batch, k_doc_row;
};

// Keys [begin, end); begin >= end when there are none.
struct KeyRange {
  int64_t begin;
  int64_t end;
};

// What the position rules (causal, window, prefix) leave of all keys for query `row`. Both ends
// grow with the row, so a block of rows sees [begin of the first, end of the last).
[[maybe_unused]] static inline KeyRange VisibleKeys(const FlashProblem& p, int64_t row) {
  const int64_t position = row + p.seqlen_k - p.seqlen_q;
  KeyRange r{0, p.seqlen_k};
  if (p.is_causal) {
    const int64_t last = position < p.prefix_len - 1 ? p.prefix_len - 1 : position;
    if (last + 1 < r.end) r.end = last + 1;
  }
  if (p.window_right >= 0 && position + p.window_right + 1 < r.end) {
    r.end = position + p.window_right + 1;
  }
  if (p.window_left >= 0 && position - p.window_left > 0) r.begin = position - p.window_left;
  return r;
}

// One KV head of one batch entry, packed, and the query heads that read it.
struct FlashTask {
  int64_t batch;
  int64_t head_kv;
  KeyRange keys;          // the packed ones; keys outside are invisible to all queries
  const float* key_bias;  // added to every row, indexed from keys.begin; nullptr: none
  bool row_bias;          // mask, ALiBi or documents differ between rows
  void* packed_k;
  void* packed_v;
  void* block;  // the kernel's working memory
};

// One implementation of the inner algorithm.
struct FlashKernel {
  using FillMask = void (*)(const FlashProblem&, int64_t batch, int64_t head, int64_t row,
                            int64_t begin, int64_t n, float* dst);

  int block_rows;
  size_t (*block_bytes)();
  size_t (*packed_k_bytes)(const FlashProblem&, int64_t keys);
  size_t (*packed_v_bytes)(const FlashProblem&, int64_t keys);
  void (*enter)();  // once a thread, before its first task; nullptr: nothing to do
  void (*leave)();
  // dst[j] = additive mask of (batch, head, row, key begin + j) for j in [0, n)
  FillMask fill_mask;
  void (*pack)(const FlashProblem&, const FlashTask&);
  // Rows [row, row + rows) of query head `head_q`: writes out and lse. rows <= block_rows.
  void (*run)(const FlashProblem&, const FlashTask&, int64_t head_q, int64_t row, int rows);
};

}  // namespace kpt::cpu

#endif  // KPT_KERNELS_ATTENTION_CPU_FLASH_PROBLEM_H_

// The plain data of attention over whole sequences: kernels of every backend read them, and files
// compiled for different instruction sets, so every function is static.
#ifndef KPT_KERNELS_ATTENTION_FLASH_PROBLEM_H_
#define KPT_KERNELS_ATTENTION_FLASH_PROBLEM_H_

#include <cstdint>

#include "kernels/base/dtype.h"
#include "kernels/base/host_device.h"

namespace kpt {

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

// attention_backward.h; `out` and `lse` are read.
struct FlashBackwardProblem : FlashProblem {
  const void* grad_out;
  const float* grad_lse;  // nullptr: none
  void* grad_q;
  void* grad_k;
  void* grad_v;
  HeadStrides grad_out_stride, grad_lse_stride, grad_q_stride, grad_k_stride, grad_v_stride;
};

// Keys [begin, end); begin >= end when there are none.
struct KeyRange {
  int64_t begin;
  int64_t end;
};

namespace {

// What the position rules (causal, window, prefix) leave of all keys for query `row`. Both ends
// grow with the row, so a block of rows sees [begin of the first, end of the last).
[[maybe_unused]] KPT_HOST_DEVICE inline KeyRange VisibleKeys(const FlashProblem& p, int64_t row) {
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

// Whether rows of `dim` elements of a 16-bit tensor are pieces of `width` elements, aligned as
// such.
[[maybe_unused]] inline bool RowsArePieces(const void* data, const HeadStrides& stride, int64_t dim,
                                           int64_t width) {
  return reinterpret_cast<uintptr_t>(data) % static_cast<uintptr_t>(2 * width) == 0 &&
         dim % width == 0 && stride.batch % width == 0 && stride.head % width == 0 &&
         stride.row % width == 0;
}

}  // namespace
}  // namespace kpt

#endif  // KPT_KERNELS_ATTENTION_FLASH_PROBLEM_H_

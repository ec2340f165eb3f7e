// The plain data that pass between the driver of attention_forward and its per-ISA kernels.
//
// Included by files compiled for different instruction sets: every function is static.
#ifndef KPT_KERNELS_ATTENTION_CPU_FLASH_PROBLEM_H_
#define KPT_KERNELS_ATTENTION_CPU_FLASH_PROBLEM_H_

#include <cstddef>
#include <cstdint>

#include "kernels/attention/flash_problem.h"

namespace kpt::cpu {

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

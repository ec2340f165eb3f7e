// The plain data that pass between the driver of attention_backward and its per-ISA kernels.
//
// Included by files compiled for different instruction sets: every function is static.
#ifndef KPT_KERNELS_ATTENTION_CPU_FLASH_BACKWARD_PROBLEM_H_
#define KPT_KERNELS_ATTENTION_CPU_FLASH_BACKWARD_PROBLEM_H_

#include <cstddef>
#include <cstdint>

#include "kernels/attention/cpu/flash_problem.h"

namespace kpt::cpu {

// What is left of all queries for key `key`: the counterpart of VisibleKeys. Both ends grow with
// the key.
struct QueryRange {
  int64_t begin;
  int64_t end;
};

[[maybe_unused]] static inline QueryRange VisibleQueries(const FlashProblem& p, int64_t key) {
  const int64_t row = key - (p.seqlen_k - p.seqlen_q);  // the query that stands at this key
  QueryRange r{0, p.seqlen_q};
  if (p.is_causal && key >= p.prefix_len && row > r.begin) r.begin = row;
  if (p.window_right >= 0 && row - p.window_right > r.begin) r.begin = row - p.window_right;
  if (p.window_left >= 0 && row + p.window_left + 1 < r.end) r.end = row + p.window_left + 1;
  return r;
}

// Sums of gradients, in float. Those of queries are transposed: [tile][column][query of the tile];
// those of keys lie in rows. Columns are padded.
struct FlashBackwardShape {
  int64_t tiles;           // of queries
  int64_t tile_floats;     // of one tile
  int64_t columns_qk;      // a row of the sums of grad_k
  int64_t columns_v;       // and of grad_v
  size_t workspace_bytes;  // a thread
};

// Query tiles [begin, end).
struct TileRange {
  int64_t begin;
  int64_t end;
};

// One implementation of the inner algorithm.
struct FlashBackwardKernel {
  int block_keys;
  FlashBackwardShape (*shape)(const FlashProblem&);
  FlashKernel::FillMask fill_mask;
  // For the keys of the task and the queries of head `head_q`: sets the sums of the returned tiles
  // of `grad_q` and adds to those of the keys. `grad_k` and `grad_v` begin with key 0.
  TileRange (*run)(const FlashBackwardProblem&, const FlashTask&, int64_t head_q, float* grad_q,
                   float* grad_k, float* grad_v);
  // The sums of some tiles, and of keys [begin, end), to where they belong.
  void (*write_queries)(const FlashBackwardProblem&, int64_t batch, int64_t head_q, TileRange tiles,
                        const float* grad_q, void* workspace);
  void (*write_keys)(const FlashBackwardProblem&, int64_t batch, int64_t head_kv, int64_t begin,
                     int64_t end, const float* grad_k, const float* grad_v);
};

}  // namespace kpt::cpu

#endif  // KPT_KERNELS_ATTENTION_CPU_FLASH_BACKWARD_PROBLEM_H_

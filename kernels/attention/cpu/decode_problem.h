// The plain data that pass between the driver of attention_decode and its per-ISA kernels.
//
// Included by files compiled for different instruction sets: every function is static.
#ifndef KPT_KERNELS_ATTENTION_CPU_DECODE_PROBLEM_H_
#define KPT_KERNELS_ATTENTION_CPU_DECODE_PROBLEM_H_

#include <cstddef>
#include <cstdint>

#include "kernels/attention/decode_problem.h"

namespace kpt::cpu {

inline constexpr int kDecodeRows = 32;  // query rows of one unit of work
inline constexpr int kDecodeKeys = 64;  // keys of one block: their scores stay in the first cache

// Query rows [row, row + rows) of the rows that read one KV head: row r is token r % Sq of the
// head's query head r / Sq.
struct DecodeUnit {
  int64_t batch;
  int64_t head_kv;
  int64_t row;
  int rows;
  int64_t seq_len;
  KeyRange keys;  // what some row sees
};

// The softmax of rows over some keys: maximum and sum of the weights, and the weighted sum of v,
// `dim` floats a row.
struct DecodePartial {
  float* max;
  float* sum;
  float* out;
};

struct DecodeKernel {
  size_t (*state_bytes)();                      // working memory of a thread
  int64_t (*padded_dim)(const DecodeProblem&);  // floats of a row of DecodePartial::out
  // Reads the unit's queries into the state.
  void (*begin)(const DecodeProblem&, const DecodeUnit&, void* state);
  // The partial result over keys [range.begin, range.end) of the unit.
  void (*piece)(const DecodeProblem&, const DecodeUnit&, KeyRange range, void* state,
                const DecodePartial& result);
  // total += piece, for `rows` rows.
  void (*fold)(const DecodeProblem&, int rows, const DecodePartial& piece,
               const DecodePartial& total);
  // Writes the unit's rows of out.
  void (*finish)(const DecodeProblem&, const DecodeUnit&, const DecodePartial& total);
};

}  // namespace kpt::cpu

#endif  // KPT_KERNELS_ATTENTION_CPU_DECODE_PROBLEM_H_

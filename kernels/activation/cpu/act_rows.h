// The elementwise loops of act, act_mul and their gradients, one copy per instruction set.
#ifndef KPT_KERNELS_ACTIVATION_CPU_ACT_ROWS_H_
#define KPT_KERNELS_ACTIVATION_CPU_ACT_ROWS_H_

#include <cstdint>

#include "kernels/activation/act_job.h"

namespace kpt::cpu {

// A checked problem and how it is cut. Plain data: files of every instruction set read it.
struct ActPieces : ActJob {
  // Long rows are cut into pieces of this many elements, the unit of work.
  static constexpr int64_t kPiece = 4096;

  int64_t pieces_per_row = 0;
  bool stream = false;  // write past the caches
};

// Pieces [begin, end) of plan.rows * pieces_per_row.
using ActRowsFn = void (*)(const ActPieces& job, int64_t begin, int64_t end);

#define KPT_DECLARE_ACT_ROWS(isa)                                            \
  namespace isa {                                                            \
  void ActRows(const ActPieces& job, int64_t begin, int64_t end);            \
  void ActBackwardRows(const ActPieces& job, int64_t begin, int64_t end);    \
  void ActMulRows(const ActPieces& job, int64_t begin, int64_t end);         \
  /* The second halves, up and its gradient, lie cols behind the first. */   \
  void ActMulBackwardRows(const ActPieces& job, int64_t begin, int64_t end); \
  }
KPT_DECLARE_ACT_ROWS(baseline)
KPT_DECLARE_ACT_ROWS(avx2)
KPT_DECLARE_ACT_ROWS(avx512)
KPT_DECLARE_ACT_ROWS(avx512_bf16)
#undef KPT_DECLARE_ACT_ROWS

}  // namespace kpt::cpu

#endif  // KPT_KERNELS_ACTIVATION_CPU_ACT_ROWS_H_

// The elementwise loops of act, act_backward and act_mul, one copy per instruction set.
#ifndef KPT_KERNELS_ACTIVATION_CPU_ACT_ROWS_H_
#define KPT_KERNELS_ACTIVATION_CPU_ACT_ROWS_H_

#include <cstdint>

#include "kernels/base/activation_kind.h"
#include "kernels/base/dtype.h"
#include "kernels/base/rows.h"

namespace kpt::cpu {

// A checked problem. Plain data: files of every instruction set read it.
struct ActJob {
  enum Tensor { kOut, kX, kOther, kNumTensors };
  // Long rows are cut into pieces of this many elements, the unit of work.
  static constexpr int64_t kPiece = 4096;

  RowPlan<kNumTensors> plan;
  int64_t cols = 0;
  int64_t pieces_per_row = 0;
  DType dtype = DType::kFloat32;
  ActivationKind kind = ActivationKind::kNone;
  bool stream = false;  // write past the caches
  void* out = nullptr;
  const void* x = nullptr;
  const void* other = nullptr;  // act_backward: grad_out. act_mul: up. act: nullptr
};

// Pieces [begin, end) of plan.rows * pieces_per_row.
using ActRowsFn = void (*)(const ActJob& job, int64_t begin, int64_t end);

#define KPT_DECLARE_ACT_ROWS(isa)                                      \
  namespace isa {                                                      \
  void ActRows(const ActJob& job, int64_t begin, int64_t end);         \
  void ActBackwardRows(const ActJob& job, int64_t begin, int64_t end); \
  void ActMulRows(const ActJob& job, int64_t begin, int64_t end);      \
  }
KPT_DECLARE_ACT_ROWS(baseline)
KPT_DECLARE_ACT_ROWS(avx2)
KPT_DECLARE_ACT_ROWS(avx512)
KPT_DECLARE_ACT_ROWS(avx512_bf16)
#undef KPT_DECLARE_ACT_ROWS

}  // namespace kpt::cpu

#endif  // KPT_KERNELS_ACTIVATION_CPU_ACT_ROWS_H_

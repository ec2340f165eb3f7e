// The row loops of softmax and its gradient, one copy per instruction set.
#ifndef KPT_KERNELS_ACTIVATION_CPU_SOFTMAX_ROWS_H_
#define KPT_KERNELS_ACTIVATION_CPU_SOFTMAX_ROWS_H_

#include <cstdint>

#include "kernels/activation/softmax_job.h"

namespace kpt::cpu {

#define KPT_DECLARE_SOFTMAX_ROWS(isa)                                                  \
  namespace isa {                                                                      \
  void SoftmaxRows(const SoftmaxJob& job, int64_t begin, int64_t end);                 \
  void SoftmaxBackwardRows(const SoftmaxBackwardJob& job, int64_t begin, int64_t end); \
  }
KPT_DECLARE_SOFTMAX_ROWS(baseline)
KPT_DECLARE_SOFTMAX_ROWS(avx2)
KPT_DECLARE_SOFTMAX_ROWS(avx512)
KPT_DECLARE_SOFTMAX_ROWS(avx512_bf16)
#undef KPT_DECLARE_SOFTMAX_ROWS

}  // namespace kpt::cpu

#endif  // KPT_KERNELS_ACTIVATION_CPU_SOFTMAX_ROWS_H_

// The row loops of cross entropy, one copy per instruction set.
#ifndef KPT_KERNELS_LOSS_CPU_CROSS_ENTROPY_LOOPS_H_
#define KPT_KERNELS_LOSS_CPU_CROSS_ENTROPY_LOOPS_H_

#include <cstdint>

#include "kernels/base/cross_entropy_rows.h"
#include "kernels/base/dtype.h"

namespace kpt::cpu {

// A checked problem. Plain data: files of every instruction set read it.
struct CrossEntropyJob {
  int64_t rows = 0;
  int64_t cols = 0;
  DType dtype = DType::kFloat32;
  const void* logits = nullptr;
  int64_t ld = 0;  // elements between rows
  // Forward.
  Targets targets;
  int64_t ignore_index = 0;
  bool total = false;  // label smoothing wants the sum of the logits
  CrossEntropyRow* states = nullptr;
  // Backward.
  const CrossEntropyGradient* gradients = nullptr;
  void* grad = nullptr;
  int64_t ld_grad = 0;
  bool stream = false;  // write past the caches
};

using CrossEntropyFn = void (*)(const CrossEntropyJob& job, int64_t begin, int64_t end);

#define KPT_LOSS_DECLARE(ns)                                                             \
  namespace ns {                                                                         \
  void CrossEntropyRows(const CrossEntropyJob& job, int64_t begin, int64_t end);         \
  void CrossEntropyBackwardRows(const CrossEntropyJob& job, int64_t begin, int64_t end); \
  }
KPT_LOSS_DECLARE(baseline)
KPT_LOSS_DECLARE(avx2)
KPT_LOSS_DECLARE(avx512)
#undef KPT_LOSS_DECLARE

}  // namespace kpt::cpu

#endif  // KPT_KERNELS_LOSS_CPU_CROSS_ENTROPY_LOOPS_H_

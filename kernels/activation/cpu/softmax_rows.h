// The row loop of softmax, one copy per instruction set.
#ifndef KPT_KERNELS_ACTIVATION_CPU_SOFTMAX_ROWS_H_
#define KPT_KERNELS_ACTIVATION_CPU_SOFTMAX_ROWS_H_

#include <cstdint>

#include "kernels/base/dtype.h"
#include "kernels/base/rows.h"

namespace kpt::cpu {

// A checked problem. Plain data: files of every instruction set read it.
struct SoftmaxJob {
  enum Tensor { kOut, kX, kNumTensors };

  RowPlan<kNumTensors> plan;
  int64_t cols = 0;
  DType dtype = DType::kFloat32;
  float scale = 1.0f;
  bool stream = false;  // write past the caches
  void* out = nullptr;
  const void* x = nullptr;
};

using SoftmaxRowsFn = void (*)(const SoftmaxJob& job, int64_t begin, int64_t end);

namespace baseline {
void SoftmaxRows(const SoftmaxJob& job, int64_t begin, int64_t end);
}
namespace avx2 {
void SoftmaxRows(const SoftmaxJob& job, int64_t begin, int64_t end);
}
namespace avx512 {
void SoftmaxRows(const SoftmaxJob& job, int64_t begin, int64_t end);
}
namespace avx512_bf16 {
void SoftmaxRows(const SoftmaxJob& job, int64_t begin, int64_t end);
}

}  // namespace kpt::cpu

#endif  // KPT_KERNELS_ACTIVATION_CPU_SOFTMAX_ROWS_H_

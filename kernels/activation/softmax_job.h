// SoftmaxJob and SoftmaxBackwardJob: what softmax and its gradient are about to do, on any backend.
#ifndef KPT_KERNELS_ACTIVATION_SOFTMAX_JOB_H_
#define KPT_KERNELS_ACTIVATION_SOFTMAX_JOB_H_

#include <cstdint>

#include "kernels/base/dtype.h"
#include "kernels/base/rows.h"

namespace kpt {

// A checked problem. Plain data: files of every instruction set, and kernels on a GPU, read it.
struct SoftmaxJob {
  enum Tensor { kOut, kX, kNumTensors };

  RowPlan<kNumTensors> plan;
  int64_t cols = 0;
  DType dtype = DType::kFloat32;
  float scale = 1.0f;
  bool stream = false;  // on a CPU: write past the caches
  void* out = nullptr;
  const void* x = nullptr;
};

// A checked problem. Plain data: files of every instruction set, and kernels on
// a GPU, read it.
struct SoftmaxBackwardJob {
  enum Tensor { kGradX, kGradOut, kOut, kNumTensors };

  RowPlan<kNumTensors> plan;
  int64_t cols = 0;
  DType dtype = DType::kFloat32;
  float scale = 1.0f;
  bool stream = false;  // on a CPU: write past the caches
  void* grad_x = nullptr;
  const void* grad_out = nullptr;
  const void* out = nullptr;
};

}  // namespace kpt

#endif  // KPT_KERNELS_ACTIVATION_SOFTMAX_JOB_H_

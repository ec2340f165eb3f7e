// ActJob: what an elementwise activation is about to do, on any backend.
#ifndef KPT_KERNELS_ACTIVATION_ACT_JOB_H_
#define KPT_KERNELS_ACTIVATION_ACT_JOB_H_

#include <cstdint>

#include "kernels/base/activation_kind.h"
#include "kernels/base/dtype.h"
#include "kernels/base/rows.h"

namespace kpt {

// A checked problem. Plain data: files of every instruction set, and kernels on a GPU, read it.
struct ActJob {
  enum Tensor { kOut, kX, kOther, kNumTensors };

  RowPlan<kNumTensors> plan;
  int64_t cols = 0;
  DType dtype = DType::kFloat32;
  ActivationKind kind = ActivationKind::kNone;
  void* out = nullptr;
  const void* x = nullptr;
  const void* other = nullptr;  // gradients: grad_out. act_mul: up. act: nullptr
};

}  // namespace kpt

#endif  // KPT_KERNELS_ACTIVATION_ACT_JOB_H_

// NormBackwardJob: what the gradient of any of the norms is about to do, on any backend.
#ifndef KPT_KERNELS_NORM_NORM_BACKWARD_JOB_H_
#define KPT_KERNELS_NORM_NORM_BACKWARD_JOB_H_

#include <cstdint>

#include "kernels/base/dtype.h"
#include "kernels/base/rows.h"

namespace kpt {

// A checked problem. Plain data: files of every instruction set, and kernels on a GPU, read it.
struct NormBackwardJob {
  enum Tensor { kGradX, kGradY, kX, kGradSum, kNumTensors };

  RowPlan<kNumTensors> plan;
  int64_t cols = 0;
  DType dtype = DType::kFloat32;
  void* grad_x = nullptr;
  const void* grad_y = nullptr;
  const void* x = nullptr;
  const void* grad_sum = nullptr;  // added to grad_x; nullptr: 0
  const void* weight = nullptr;    // nullptr: 1
  DType weight_dtype = DType::kFloat32;
  void* grad_weight = nullptr;  // nullptr: not wanted
  DType grad_weight_dtype = DType::kFloat32;
  void* grad_bias = nullptr;  // nullptr: not wanted
  DType grad_bias_dtype = DType::kFloat32;
  bool subtract_mean = false;  // layer norm, else RMS norm
  float eps = 0.0f;

  bool has_sums() const { return grad_weight != nullptr || grad_bias != nullptr; }
};

}  // namespace kpt

#endif  // KPT_KERNELS_NORM_NORM_BACKWARD_JOB_H_

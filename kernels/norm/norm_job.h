// NormJob: what any of the four norms is about to do, on any backend.
#ifndef KPT_KERNELS_NORM_NORM_JOB_H_
#define KPT_KERNELS_NORM_NORM_JOB_H_

#include <cstdint>

#include "kernels/base/dtype.h"
#include "kernels/base/rows.h"

namespace kpt {

// A checked problem. Plain data: files of every instruction set, and kernels on a GPU, read it.
struct NormJob {
  enum Tensor { kY, kX, kSum, kResidual, kNumTensors };

  RowPlan<kNumTensors> plan;
  int64_t cols = 0;
  DType dtype = DType::kFloat32;
  void* y = nullptr;
  const void* x = nullptr;
  void* sum = nullptr;             // with residual: x + residual goes here
  const void* residual = nullptr;  // nullptr: no addition
  const void* weight = nullptr;    // nullptr: 1
  DType weight_dtype = DType::kFloat32;
  const void* bias = nullptr;  // nullptr: 0
  DType bias_dtype = DType::kFloat32;
  bool subtract_mean = false;  // layer norm, else RMS norm
  bool stream = false;         // write y past the caches
  float eps = 0.0f;
};

}  // namespace kpt

#endif  // KPT_KERNELS_NORM_NORM_JOB_H_

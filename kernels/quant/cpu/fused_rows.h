// The loops of the fused operators, one copy per instruction set: a row is made in float, in
// memory that stays in the cache, and quantized from there.
#ifndef KPT_KERNELS_QUANT_CPU_FUSED_ROWS_H_
#define KPT_KERNELS_QUANT_CPU_FUSED_ROWS_H_

#include <cstdint>

#include "kernels/base/activation_kind.h"
#include "kernels/base/dtype.h"
#include "kernels/base/rows.h"
#include "kernels/quant/cpu/quantize_rows.h"

namespace kpt::cpu {

// A checked problem. Plain data: files of every instruction set read it.
struct FusedJob {
  enum Tensor { kCodes, kX, kResidual, kSum, kScaleIn, kScaleOut, kNumTensors };

  RowPlan<kNumTensors> plan;
  int64_t cols = 0;   // of the codes
  int64_t group = 0;  // columns that share a scale
  QuantSpec spec;
  DType x_dtype = DType::kFloat32;
  const void* x = nullptr;
  uint8_t* codes = nullptr;
  GroupScales scales;
  bool shared = false;  // one given scale for all

  // Norms.
  const void* residual = nullptr;  // nullptr: no addition
  void* sum = nullptr;             // with residual: x + residual goes here
  const void* weight = nullptr;    // nullptr: 1
  DType weight_dtype = DType::kFloat32;
  const void* bias = nullptr;  // nullptr: 0
  DType bias_dtype = DType::kFloat32;
  bool subtract_mean = false;  // layer norm, else RMS norm
  float eps = 0.0f;

  // Activations.
  ActivationKind kind = ActivationKind::kNone;
  bool gated = false;
};

// Rows [begin, end). `row` has room for job.cols floats.
using FusedRowsFn = void (*)(const FusedJob& job, int64_t begin, int64_t end, float* row);

#define KPT_DECLARE_FUSED_ROWS(isa)                                                   \
  namespace isa {                                                                     \
  void NormQuantizeRows(const FusedJob& job, int64_t begin, int64_t end, float* row); \
  void ActQuantizeRows(const FusedJob& job, int64_t begin, int64_t end, float* row);  \
  }
KPT_DECLARE_FUSED_ROWS(baseline)
KPT_DECLARE_FUSED_ROWS(avx2)
KPT_DECLARE_FUSED_ROWS(avx512)
#undef KPT_DECLARE_FUSED_ROWS

}  // namespace kpt::cpu

#endif  // KPT_KERNELS_QUANT_CPU_FUSED_ROWS_H_

// What moe_ffn does beside matrix products, one copy per instruction set.
#ifndef KPT_KERNELS_GEMM_CPU_EXPERT_ROWS_H_
#define KPT_KERNELS_GEMM_CPU_EXPERT_ROWS_H_

#include <cstdint>

#include "kernels/base/dtype.h"

namespace kpt::cpu {

// out[t] = sum over j of weights[t top_k + j] * y[row_of[t top_k + j]], in the order of j.
struct ExpertSums {
  int64_t top_k = 0;
  int64_t cols = 0;
  const float* y = nullptr;         // rows of cols
  const int64_t* row_of = nullptr;  // of each choice
  const float* weights = nullptr;   // of each choice
  void* out = nullptr;
  DType dtype = DType::kFloat32;
  int64_t ld_out = 0;  // elements between rows
};

#define KPT_GEMM_DECLARE_EXPERTS(ns)                                   \
  namespace ns {                                                       \
  void SumExperts(const ExpertSums& sums, int64_t begin, int64_t end); \
  }
KPT_GEMM_DECLARE_EXPERTS(baseline)
KPT_GEMM_DECLARE_EXPERTS(avx2)
KPT_GEMM_DECLARE_EXPERTS(avx512)
#undef KPT_GEMM_DECLARE_EXPERTS

}  // namespace kpt::cpu

#endif  // KPT_KERNELS_GEMM_CPU_EXPERT_ROWS_H_

// SumExperts, compiled once per portable instruction set.
#include "kernels/base/simd_weighted_sum.h"
#include "kernels/gemm/cpu/expert_rows.h"

HWY_BEFORE_NAMESPACE();
namespace kpt::cpu::KPT_SIMD_NS {
namespace {

template <class T>
void SumAs(const ExpertSums& s, int64_t begin, int64_t end) {
  for (int64_t t = begin; t < end; ++t) {
    const int64_t first = t * s.top_k;
    WeightedSum(
        s.top_k, s.cols,
        [&](int64_t j, float* weight) {
          *weight = s.weights[first + j];
          return s.y + s.row_of[first + j] * s.cols;
        },
        static_cast<T*>(s.out) + t * s.ld_out);
  }
}

}  // namespace

void SumExperts(const ExpertSums& sums, int64_t begin, int64_t end) {
  switch (sums.dtype) {
    case DType::kFloat16:
      return SumAs<Half>(sums, begin, end);
    case DType::kBFloat16:
      return SumAs<BFloat16>(sums, begin, end);
    default:
      return SumAs<float>(sums, begin, end);
  }
}

}  // namespace kpt::cpu::KPT_SIMD_NS
HWY_AFTER_NAMESPACE();

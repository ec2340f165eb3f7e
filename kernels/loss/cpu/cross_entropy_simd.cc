// The loops of cross_entropy and its backward, compiled once per portable instruction set.
#include "kernels/base/simd_cross_entropy.h"
#include "kernels/loss/cpu/cross_entropy_loops.h"

HWY_BEFORE_NAMESPACE();
namespace kpt::cpu::KPT_SIMD_NS {
namespace {

template <class T>
void Forward(const CrossEntropyJob& job, int64_t begin, int64_t end) {
  for (int64_t r = begin; r < end; ++r) {
    const int64_t target = job.targets[r];
    if (target == job.ignore_index) continue;
    const T* x = static_cast<const T*>(job.logits) + r * job.ld;
    CrossEntropyRow* row = job.states + r;
    *row = CrossEntropyRow();
    row->target = hn::GetLane(LoadN(x + target, 1));
    if (job.total) {
      UpdateRow<true>(x, 0, job.cols, row);
    } else {
      UpdateRow<false>(x, 0, job.cols, row);
    }
  }
}

template <class T>
void Backward(const CrossEntropyJob& job, int64_t begin, int64_t end) {
  for (int64_t r = begin; r < end; ++r) {
    const T* x = static_cast<const T*>(job.logits) + r * job.ld;
    T* grad = static_cast<T*>(job.grad) + r * job.ld_grad;
    if (job.stream) {
      GradientRow<true>(job.gradients[r], x, 0, job.cols, grad);
    } else {
      GradientRow<false>(job.gradients[r], x, 0, job.cols, grad);
    }
  }
}

}  // namespace

void CrossEntropyRows(const CrossEntropyJob& job, int64_t begin, int64_t end) {
  switch (job.dtype) {
    case DType::kFloat32:
      return Forward<float>(job, begin, end);
    case DType::kFloat16:
      return Forward<Half>(job, begin, end);
    default:
      return Forward<BFloat16>(job, begin, end);
  }
}

void CrossEntropyBackwardRows(const CrossEntropyJob& job, int64_t begin, int64_t end) {
  switch (job.dtype) {
    case DType::kFloat32:
      return Backward<float>(job, begin, end);
    case DType::kFloat16:
      return Backward<Half>(job, begin, end);
    default:
      return Backward<BFloat16>(job, begin, end);
  }
}

}  // namespace kpt::cpu::KPT_SIMD_NS
HWY_AFTER_NAMESPACE();

// The loops over a block of logits, compiled once per portable instruction set.
#include "kernels/base/simd_cross_entropy.h"
#include "kernels/gemm/cpu/logit_block.h"

HWY_BEFORE_NAMESPACE();
namespace kpt::cpu::KPT_SIMD_NS {
namespace {

template <class T>
void GradientRows(const LogitBlock& block, int64_t begin, int64_t end) {
  for (int64_t r = begin; r < end; ++r) {
    const float* x = block.logits + r * block.ld;
    T* out = reinterpret_cast<T*>(block.logits + r * block.ld);
    GradientRow<false>(block.gradients[r], x, block.first, block.classes, out);
  }
}

template <class T>
void Convert(const RowMatrix& from, int64_t begin, int64_t end, float* to, int64_t ld) {
  for (int64_t r = begin; r < end; ++r) {
    MapRow<false>([](FloatVec v) HWY_ATTR { return v; }, from.cols, to + r * ld,
                  static_cast<const T*>(from.At(r, 0)));
  }
}

template <class T>
void Round(const float* from, int64_t ld, int64_t begin, int64_t end, const RowMatrix& to) {
  for (int64_t r = begin; r < end; ++r) {
    MapRow<false>([](FloatVec v) HWY_ATTR { return v; }, to.cols,
                  static_cast<T*>(const_cast<void*>(to.At(r, 0))), from + r * ld);
  }
}

}  // namespace

void UpdateLogitRows(const LogitBlock& block, int64_t begin, int64_t end) {
  for (int64_t r = begin; r < end; ++r) {
    const int64_t target = block.targets[r];
    if (target == block.ignore_index) continue;
    const float* x = block.logits + r * block.ld;
    CrossEntropyRow* row = block.states + r;
    const int64_t at = target - block.first;
    if (at >= 0 && at < block.classes) row->target = x[at];
    if (block.total) {
      UpdateRow<true>(x, block.first, block.classes, row);
    } else {
      UpdateRow<false>(x, block.first, block.classes, row);
    }
  }
}

void GradientFloatRows(const LogitBlock& block, int64_t begin, int64_t end) {
  GradientRows<float>(block, begin, end);
}

void GradientBf16Rows(const LogitBlock& block, int64_t begin, int64_t end) {
  GradientRows<BFloat16>(block, begin, end);
}

void ConvertFloatRows(const RowMatrix& from, int64_t begin, int64_t end, float* to, int64_t ld) {
  switch (from.dtype) {
    case DType::kFloat16:
      return Convert<Half>(from, begin, end, to, ld);
    case DType::kBFloat16:
      return Convert<BFloat16>(from, begin, end, to, ld);
    default:
      return Convert<float>(from, begin, end, to, ld);
  }
}

void RoundFloatRows(const float* from, int64_t ld, int64_t begin, int64_t end,
                    const RowMatrix& to) {
  switch (to.dtype) {
    case DType::kFloat16:
      return Round<Half>(from, ld, begin, end, to);
    case DType::kBFloat16:
      return Round<BFloat16>(from, ld, begin, end, to);
    default:
      return Round<float>(from, ld, begin, end, to);
  }
}

}  // namespace kpt::cpu::KPT_SIMD_NS
HWY_AFTER_NAMESPACE();

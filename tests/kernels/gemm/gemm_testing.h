// What the tests of the gemm family share: the exact result of a linear layer, in double.
#ifndef KPT_TESTS_KERNELS_GEMM_GEMM_TESTING_H_
#define KPT_TESTS_KERNELS_GEMM_GEMM_TESTING_H_

#include <cmath>
#include <functional>

#include "kernels/base/activation_kind.h"
#include "tests/kernels/base/row_op_testing.h"

namespace kpt::testing_util {

inline constexpr ActivationKind kLinearActivations[] = {
    ActivationKind::kNone,     ActivationKind::kRelu, ActivationKind::kGelu,
    ActivationKind::kGeluTanh, ActivationKind::kSilu, ActivationKind::kSwiglu,
    ActivationKind::kGeglu};

inline double ExactActivation(ActivationKind kind, double x) {
  switch (kind) {
    case ActivationKind::kRelu:
      return x > 0 ? x : std::isnan(x) ? x : 0;
    case ActivationKind::kGelu:
    case ActivationKind::kGeglu:
      return 0.5 * x * (1 + std::erf(x * std::sqrt(0.5)));
    case ActivationKind::kGeluTanh:
      return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case ActivationKind::kSilu:
    case ActivationKind::kSwiglu:
      return x / (1 + std::exp(-x));
    default:
      return x;
  }
}

// One output and how far float sums of K terms and a float activation may be off.
struct ExactOutput {
  double value;
  double slack;
};

// What the fast activations, used where results are rounded to bfloat16, may be off besides
// (kernels/base/simd_math.h).
inline double FastSlack(DType dtype, ActivationKind kind, double value) {
  const bool exact = kind == ActivationKind::kNone || kind == ActivationKind::kRelu;
  return dtype != DType::kBFloat16 || exact ? 0.0 : 4e-4 * std::fabs(value) + 8e-5;
}

// Output n of row m of x under `weight(row, k)`, with a bias or none, and N outputs.
inline ExactOutput ExactLinear(const Tensor& x,
                               const std::function<double(int64_t, int64_t)>& weight,
                               const Tensor* bias, ActivationKind kind, int64_t m, int64_t n,
                               int64_t outputs) {
  struct Sum {
    double value = 0;
    double size = 0;
  };
  const auto sum = [&](int64_t row) {
    Sum s;
    if (bias != nullptr) s.value = bias->Get(0, row);
    s.size = std::fabs(s.value);
    for (int64_t k = 0; k < x.cols(); ++k) {
      const double product = static_cast<double>(x.Get(m, k)) * weight(row, k);
      s.value += product;
      s.size += std::fabs(product);
    }
    return s;
  };
  const double units = 0x1p-24 * (8 + std::sqrt(static_cast<double>(x.cols())));
  const Sum t = sum(n);
  const double a = ExactActivation(kind, t.value);
  // The slope of every activation is below 1.2.
  const double slack = units * (1.2 * t.size + std::fabs(a)) + FastSlack(x.dtype(), kind, a);
  if (!IsGated(kind)) return {a, slack};
  const Sum up = sum(outputs + n);
  return {a * up.value, slack * std::fabs(up.value) + units * up.size * std::fabs(a)};
}

}  // namespace kpt::testing_util

#endif  // KPT_TESTS_KERNELS_GEMM_GEMM_TESTING_H_

// Exact gradients of linear layers, in double.
#ifndef KPT_TESTS_KERNELS_GEMM_GRADIENTS_TESTING_H_
#define KPT_TESTS_KERNELS_GEMM_GRADIENTS_TESTING_H_

#include <cmath>
#include <vector>

#include "tests/kernels/gemm/gemm_testing.h"

namespace kpt::testing_util {

inline double ExactSlope(ActivationKind kind, double x) {
  const double sigmoid = 1 / (1 + std::exp(-x));
  switch (kind) {
    case ActivationKind::kRelu:
      return x > 0 ? 1 : 0;
    case ActivationKind::kGelu:
    case ActivationKind::kGeglu:
      return 0.5 * (1 + std::erf(x * std::sqrt(0.5))) +
             x * std::exp(-0.5 * x * x) / std::sqrt(2 * M_PI);
    case ActivationKind::kGeluTanh: {
      const double t = std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x));
      return 0.5 * (1 + t) +
             0.5 * x * (1 - t * t) * std::sqrt(2 / M_PI) * (1 + 3 * 0.044715 * x * x);
    }
    case ActivationKind::kSilu:
    case ActivationKind::kSwiglu:
      return sigmoid * (1 + x * (1 - sigmoid));
    default:
      return 1;
  }
}

// A dense matrix of doubles.
struct Doubles {
  Doubles(int64_t r, int64_t c) : rows(r), cols(c), values(static_cast<size_t>(r * c)) {}
  double& At(int64_t r, int64_t c) { return values[static_cast<size_t>(r * cols + c)]; }
  double At(int64_t r, int64_t c) const { return values[static_cast<size_t>(r * cols + c)]; }
  int64_t rows, cols;
  std::vector<double> values;
};

// d loss / d t of each row, from grad_out; bias may be null.
inline Doubles ExactGradientOfSums(const Tensor& grad_out, const Tensor& x, const Tensor& weight,
                                   const Tensor* bias, ActivationKind kind) {
  const int64_t n = grad_out.cols();
  Doubles grad(x.rows(), weight.rows());
  const auto sum = [&](int64_t m, int64_t row) {
    double t = bias != nullptr ? bias->Get(0, row) : 0;
    for (int64_t k = 0; k < x.cols(); ++k) {
      t += static_cast<double>(x.Get(m, k)) * static_cast<double>(weight.Get(row, k));
    }
    return t;
  };
  for (int64_t m = 0; m < x.rows(); ++m) {
    for (int64_t j = 0; j < n; ++j) {
      const double g = grad_out.Get(m, j);
      const double t = kind == ActivationKind::kNone ? 0 : sum(m, j);
      if (IsGated(kind)) {
        grad.At(m, j) = g * sum(m, n + j) * ExactSlope(kind, t);
        grad.At(m, n + j) = g * ExactActivation(kind, t);
      } else {
        grad.At(m, j) = g * ExactSlope(kind, t);
      }
    }
  }
  return grad;
}

// How far a sum of `terms` products of size about one may be off: each factor was rounded to the
// dtype, the float sum adds its own errors.
inline double GradientSlack(DType dtype, int64_t terms) {
  const double root = std::sqrt(static_cast<double>(terms) + 1);
  return 6 * root * (Unit(dtype) + 0x1p-22);
}

}  // namespace kpt::testing_util

#endif  // KPT_TESTS_KERNELS_GEMM_GRADIENTS_TESTING_H_

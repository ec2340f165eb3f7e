// The activation family of a backend against double precision.
#ifndef KPT_TESTS_KERNELS_ACTIVATION_ACTIVATION_TESTING_H_
#define KPT_TESTS_KERNELS_ACTIVATION_ACTIVATION_TESTING_H_

#include <cmath>
#include <limits>
#include <random>
#include <string>

#include "gtest/gtest.h"
#include "kernels/activation/act.h"
#include "kernels/activation/act_backward.h"
#include "kernels/activation/act_mul.h"
#include "kernels/activation/softmax.h"
#include "kernels/base/backend.h"
#include "tests/kernels/base/row_op_testing.h"

namespace kpt::activation_testing {

using testing_util::Tensor;
using testing_util::Unit;
using K = ActivationKind;

inline constexpr K kKinds[] = {K::kRelu, K::kGelu,    K::kGeluTanh, K::kSilu,
                               K::kTanh, K::kSigmoid, K::kQuickGelu};

inline double Sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

inline double Exact(K kind, double x) {
  switch (kind) {
    case K::kRelu:
      return x > 0 ? x : 0;
    case K::kGelu:
      return x * 0.5 * std::erfc(-x / std::sqrt(2.0));
    case K::kGeluTanh:
      return x * Sigmoid(2 * 0.7978845608028654 * (x + 0.044715 * x * x * x));
    case K::kSilu:
      return x * Sigmoid(x);
    case K::kSigmoid:
      return Sigmoid(x);
    case K::kTanh:
      return std::tanh(x);
    default:
      return x * Sigmoid(1.702 * x);
  }
}

inline double Slope(K kind, double x) {
  if (kind == K::kRelu) return x > 0 ? 1 : 0;
  const double h = 1e-5;
  return (Exact(kind, x + h) - Exact(kind, x - h)) / (2 * h);
}

// Rounding once, and the approximation: fast functions where the result is rounded to bfloat16.
// Below 2^-14, float16 has a fixed distance of 2^-24.
inline double Allowed(DType dtype, double want, double scale) {
  const double inner = dtype == DType::kBFloat16 ? 4e-4 : 1e-6;
  const double subnormal = dtype == DType::kFloat16 ? std::exp2(-25) : 0;
  return subnormal + 1.05 * Unit(dtype) * std::fabs(want) + inner * (std::fabs(want) + scale);
}

// act, act_backward and act_mul of 3 rows of n. Rows lie `gap` elements and a few more apart.
inline void CheckActs(const LaunchContext& ctx, DType dtype, int64_t n, int64_t gap = 1) {
  std::mt19937 random(static_cast<unsigned>(n));
  constexpr int64_t kRows = 3;
  Tensor pair(dtype, kRows, 2 * n, 3 * gap), x(dtype, kRows, n, gap),
      grad(dtype, kRows, n, 2 * gap);
  pair.Fill(&random, 0, 3);
  x.Fill(&random, 0, 3);
  grad.Fill(&random, 0, 1);
  for (K kind : kKinds) {
    const std::string where = std::string(Name(dtype)) + " " + std::to_string(n) + " kind " +
                              std::to_string(static_cast<int>(kind));
    Tensor y(dtype, kRows, n, 5 * gap), back(dtype, kRows, n, 4 * gap);
    Tensor product(dtype, kRows, n, 6 * gap);
    ASSERT_TRUE(backend::Act(ctx, {y.view(), x.view(), kind}).ok());
    ASSERT_TRUE(backend::ActBackward(ctx, {back.view(), grad.view(), x.view(), kind}).ok());
    const bool gates = kind != K::kTanh && kind != K::kQuickGelu;
    const Status status = backend::ActMul(ctx, {product.view(), pair.view(), kind});
    ASSERT_EQ(status.ok(), gates) << status.message();
    ASSERT_TRUE(y.GapsUntouched() && back.GapsUntouched() && product.GapsUntouched());
    for (int64_t r = 0; r < kRows; ++r) {
      for (int64_t c = 0; c < n; ++c) {
        const double want = Exact(kind, x.Get(r, c));
        ASSERT_NEAR(y.Get(r, c), want, Allowed(dtype, want, 0.2)) << where;
        const double slope = grad.Get(r, c) * Slope(kind, x.Get(r, c));
        ASSERT_NEAR(back.Get(r, c), slope, Allowed(dtype, slope, 4 * std::fabs(grad.Get(r, c))))
            << where << " backward at " << x.Get(r, c);
        if (!gates) continue;
        const double up = pair.Get(r, n + c);
        const double gated = Exact(kind, pair.Get(r, c)) * up;
        ASSERT_NEAR(product.Get(r, c), gated, Allowed(dtype, gated, 0.2 * std::fabs(up)))
            << where << " act_mul";
      }
    }
  }
}

inline void CheckSoftmax(const LaunchContext& ctx, DType dtype, int64_t n, int64_t gap = 1) {
  std::mt19937 random(2);
  constexpr int64_t kRows = 3;
  Tensor x(dtype, kRows, n, 3 * gap);
  x.Fill(&random, 1, 3);
  if (n > 2) x.Set(0, 1, -std::numeric_limits<float>::infinity());
  for (float scale : {1.0f, 0.125f, -2.0f, 0.0f}) {
    if (scale <= 0 && n > 2) x.Set(0, 1, 0.5f);  // an infinity times it would win, or be NaN
    Tensor y(dtype, kRows, n, 5 * gap);
    const Status status = backend::Softmax(ctx, {y.view(), x.view(), scale});
    ASSERT_TRUE(status.ok()) << status.message();
    ASSERT_TRUE(y.GapsUntouched());
    for (int64_t r = 0; r < kRows; ++r) {
      double most = -INFINITY, sum = 0;
      for (int64_t c = 0; c < n; ++c) most = std::fmax(most, double{scale} * x.Get(r, c));
      for (int64_t c = 0; c < n; ++c) sum += std::exp(double{scale} * x.Get(r, c) - most);
      for (int64_t c = 0; c < n; ++c) {
        const double want = std::exp(double{scale} * x.Get(r, c) - most) / sum;
        const double inner = dtype == DType::kBFloat16 ? 4e-4 : 2e-6;
        ASSERT_NEAR(y.Get(r, c), want, (1.05 * Unit(dtype) + inner) * want + 0x1p-25)
            << Name(dtype) << " " << n << " scale " << scale;
      }
    }
  }
}

inline void CheckSpecialSoftmax(const LaunchContext& ctx, DType dtype, int64_t n) {
  const float inf = std::numeric_limits<float>::infinity();
  Tensor x(dtype, 4, n), y(dtype, 4, n);
  for (int64_t c = 0; c < n; ++c) {
    x.Set(0, c, -inf);
    x.Set(1, c, c == n / 2 ? inf : 0.0f);
    x.Set(2, c, c == n - 1 ? std::nanf("") : 0.0f);
    x.Set(3, c, c == n - 1 ? 1e4f : -inf);
  }
  ASSERT_TRUE(backend::Softmax(ctx, {y.view(), x.view(), 1.0f}).ok());
  for (int64_t c = 0; c < n; ++c) {
    for (int64_t r = 0; r < 3; ++r) ASSERT_TRUE(std::isnan(y.Get(r, c))) << r << " " << n;
    ASSERT_EQ(y.Get(3, c), c == n - 1 ? 1.0f : 0.0f);
  }
}

}  // namespace kpt::activation_testing

#endif  // KPT_TESTS_KERNELS_ACTIVATION_ACTIVATION_TESTING_H_

// act, act_backward, act_mul and softmax: every instruction set, dtype and tail against double
// precision; layouts, aliasing and refusals.
#include <cmath>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/activation/act.h"
#include "kernels/activation/act_backward.h"
#include "kernels/activation/act_mul.h"
#include "kernels/activation/softmax.h"
#include "tests/kernels/base/row_op_testing.h"

namespace kpt::cpu {
namespace {

using testing_util::At;
using testing_util::kFloats;
using testing_util::kWidths;
using testing_util::Levels;
using testing_util::Tensor;
using testing_util::Unit;
using K = ActivationKind;

constexpr K kKinds[] = {K::kRelu, K::kGelu,    K::kGeluTanh, K::kSilu,
                        K::kTanh, K::kSigmoid, K::kQuickGelu};

double Sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

double Exact(K kind, double x) {
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

double Slope(K kind, double x) {
  if (kind == K::kRelu) return x > 0 ? 1 : 0;
  const double h = 1e-5;
  return (Exact(kind, x + h) - Exact(kind, x - h)) / (2 * h);
}

// Rounding once, and the approximation: fast functions where the result is rounded to bfloat16.
// Below 2^-14, float16 has a fixed distance of 2^-24.
double Allowed(DType dtype, double want, double scale) {
  const double inner = dtype == DType::kBFloat16 ? 4e-4 : 1e-6;
  const double subnormal = dtype == DType::kFloat16 ? std::exp2(-25) : 0;
  return subnormal + 1.05 * Unit(dtype) * std::fabs(want) + inner * (std::fabs(want) + scale);
}

TEST(Activation, AgreesWithDoubleAtEveryLevel) {
  std::mt19937 random(1);
  for (DType dtype : kFloats) {
    for (int64_t n : kWidths) {
      constexpr int64_t kRows = 3;
      Tensor pair(dtype, kRows, 2 * n, 3), x(dtype, kRows, n, 1), grad(dtype, kRows, n, 2);
      pair.Fill(&random, 0, 3);
      x.Fill(&random, 0, 3);
      grad.Fill(&random, 0, 1);
      for (Isa isa : Levels()) {
        for (K kind : kKinds) {
          const std::string where = std::string(Name(isa)) + " " + Name(dtype) + " " +
                                    std::to_string(n) + " kind " +
                                    std::to_string(static_cast<int>(kind));
          Tensor y(dtype, kRows, n, 5), back(dtype, kRows, n, 4), product(dtype, kRows, n, 6);
          ASSERT_TRUE(Act(At(isa), {y.view(), x.view(), kind}).ok());
          ASSERT_TRUE(ActBackward(At(isa), {back.view(), grad.view(), x.view(), kind}).ok());
          const bool gates = kind != K::kTanh && kind != K::kQuickGelu;
          const Status status = ActMul(At(isa), {product.view(), pair.view(), kind});
          ASSERT_EQ(status.ok(), gates) << status.message();
          ASSERT_TRUE(y.GapsUntouched() && back.GapsUntouched() && product.GapsUntouched());
          for (int64_t r = 0; r < kRows; ++r) {
            for (int64_t c = 0; c < n; ++c) {
              const double want = Exact(kind, x.Get(r, c));
              ASSERT_NEAR(y.Get(r, c), want, Allowed(dtype, want, 0.2)) << where;
              const double slope = grad.Get(r, c) * Slope(kind, x.Get(r, c));
              ASSERT_NEAR(back.Get(r, c), slope,
                          Allowed(dtype, slope, 4 * std::fabs(grad.Get(r, c))))
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
    }
  }
}

TEST(Softmax, AgreesWithDoubleAtEveryLevel) {
  std::mt19937 random(2);
  for (DType dtype : kFloats) {
    for (int64_t n : {1, 2, 7, 16, 33, 65, 130, 1000, 8192, 8193, 9001}) {
      constexpr int64_t kRows = 3;
      Tensor x(dtype, kRows, n, 3);
      x.Fill(&random, 1, 3);
      if (n > 2) x.Set(0, 1, -std::numeric_limits<float>::infinity());
      for (float scale : {1.0f, 0.125f, -2.0f, 0.0f}) {
        if (scale <= 0 && n > 2) x.Set(0, 1, 0.5f);  // an infinity times it would win, or be NaN
        for (Isa isa : Levels()) {
          Tensor y(dtype, kRows, n, 5);
          ASSERT_TRUE(Softmax(At(isa), {y.view(), x.view(), scale}).ok());
          ASSERT_TRUE(y.GapsUntouched());
          for (int64_t r = 0; r < kRows; ++r) {
            double most = -INFINITY, sum = 0;
            for (int64_t c = 0; c < n; ++c) most = std::fmax(most, double{scale} * x.Get(r, c));
            for (int64_t c = 0; c < n; ++c) sum += std::exp(double{scale} * x.Get(r, c) - most);
            for (int64_t c = 0; c < n; ++c) {
              const double want = std::exp(double{scale} * x.Get(r, c) - most) / sum;
              const double inner = dtype == DType::kBFloat16 ? 4e-4 : 2e-6;
              ASSERT_NEAR(y.Get(r, c), want, (1.05 * Unit(dtype) + inner) * want + 0x1p-25)
                  << Name(isa) << " " << Name(dtype) << " " << n << " scale " << scale;
            }
          }
        }
      }
    }
  }
}

TEST(Softmax, SpecialRows) {
  const float inf = std::numeric_limits<float>::infinity();
  for (DType dtype : kFloats) {
    for (Isa isa : Levels()) {
      for (int64_t n : {1, 5, 40, 100}) {
        Tensor x(dtype, 4, n), y(dtype, 4, n);
        for (int64_t c = 0; c < n; ++c) {
          x.Set(0, c, -inf);
          x.Set(1, c, c == n / 2 ? inf : 0.0f);
          x.Set(2, c, c == n - 1 ? std::nanf("") : 0.0f);
          x.Set(3, c, c == n - 1 ? 1e4f : -inf);
        }
        ASSERT_TRUE(Softmax(At(isa), {y.view(), x.view(), 1.0f}).ok());
        for (int64_t c = 0; c < n; ++c) {
          for (int64_t r = 0; r < 3; ++r) ASSERT_TRUE(std::isnan(y.Get(r, c))) << r << " " << n;
          ASSERT_EQ(y.Get(3, c), c == n - 1 ? 1.0f : 0.0f);
        }
      }
    }
  }
}

TEST(Activation, ThreadsAndPlaceDoNotMatter) {
  std::mt19937 random(4);
  Tensor x(DType::kBFloat16, 50, 1000), y(DType::kBFloat16, 50, 1000);
  x.Fill(&random, 0, 2);
  const LaunchContext ctx = At(DetectedIsa());
  for (K kind : kKinds) {
    ASSERT_TRUE(Act(ctx, {y.view(), x.view(), kind}).ok());
    Tensor in_place = x;
    ASSERT_TRUE(Act(ctx, {in_place.view(), in_place.view(), kind}).ok());
    EXPECT_EQ(in_place.bytes(), y.bytes());
    MutableTensorView row = in_place.view(), from = x.view();
    row.shape[0] = from.shape[0] = 1;
    from.data = static_cast<const uint16_t*>(from.data) + 7 * 1000;
    ASSERT_TRUE(Act(ctx, {row, from, kind}).ok());
    for (int64_t c = 0; c < 1000; ++c) ASSERT_EQ(in_place.Get(0, c), y.Get(7, c));
  }
}

TEST(Activation, ScalarsAndEmptyTensors) {
  Tensor x(DType::kFloat32, 1, 1), y(DType::kFloat32, 1, 1);
  x.Set(0, 0, -2.0f);
  MutableTensorView a = x.view(), b = y.view();
  a.rank = b.rank = 0;
  ASSERT_TRUE(Act(At(Isa::kBaseline), {b, a, K::kTanh}).ok());
  EXPECT_NEAR(y.Get(0, 0), std::tanh(-2.0), 1e-6);
  Tensor none(DType::kFloat32, 0, 5), also(DType::kFloat32, 0, 5);
  EXPECT_TRUE(Act(At(Isa::kBaseline), {also.view(), none.view(), K::kGelu}).ok());
  EXPECT_TRUE(Softmax(At(Isa::kBaseline), {also.view(), none.view(), 1.0f}).ok());
}

void ExpectRefused(const Status& status, StatusCode code, const std::string& part) {
  EXPECT_EQ(status.code(), code) << status.message();
  EXPECT_NE(status.message().find(part), std::string::npos) << status.message();
}

TEST(Activation, Refusals) {
  const LaunchContext ctx = At(Isa::kBaseline);
  const auto bad = StatusCode::kInvalidArgument;
  Tensor x(DType::kFloat32, 4, 8), y(DType::kFloat32, 4, 8), half(DType::kFloat16, 4, 8);
  Tensor odd(DType::kFloat32, 4, 9), wide(DType::kFloat32, 4, 16);
  ExpectRefused(Act(ctx, {y.view(), x.view(), K::kNone}), bad, "act: argument 'kind'");
  ExpectRefused(Act(ctx, {y.view(), x.view(), K::kSwiglu}), bad, "act: argument 'kind'");
  ExpectRefused(Act(ctx, {half.view(), x.view(), K::kRelu}), StatusCode::kTypeError,
                "argument 'out' must have dtype float32 like 'x', got float16");
  ExpectRefused(ActBackward(ctx, {y.view(), wide.view(), x.view(), K::kRelu}), bad,
                "act_backward: argument 'grad_out' must have shape [4, 8]");
  ExpectRefused(ActMul(ctx, {y.view(), odd.view(), K::kSilu}), bad, "even last dimension");
  ExpectRefused(ActMul(ctx, {wide.view(), wide.view(), K::kSilu}), bad, "argument 'out' must have");
  ExpectRefused(ActMul(ctx, {y.view(), wide.view(), K::kTanh}), bad, "argument 'kind'");
  MutableTensorView gate = wide.view();
  gate.shape[1] = 8;
  ExpectRefused(ActMul(ctx, {gate, wide.view(), K::kSilu}), bad, "overlaps 'gate_up'");
  MutableTensorView scalar = x.view();
  scalar.rank = 0;
  ExpectRefused(Softmax(ctx, {scalar, scalar, 1.0f}), bad, "softmax: argument 'x' must have");
}

}  // namespace
}  // namespace kpt::cpu

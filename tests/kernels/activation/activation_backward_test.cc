// The gradients of softmax and act_mul: every instruction set, dtype and tail against double
// precision; aliasing and refusals.
#include <cmath>
#include <random>
#include <string>

#include "gtest/gtest.h"
#include "kernels/activation/act_mul_backward.h"
#include "kernels/activation/softmax_backward.h"
#include "tests/kernels/base/row_op_testing.h"

namespace kpt::cpu {
namespace {

using testing_util::At;
using testing_util::kFloats;
using testing_util::kWidths;
using testing_util::Levels;
using testing_util::Tensor;
using testing_util::Unit;

constexpr int64_t kRows = 3;

void Fill(unsigned seed, Tensor* t) {
  std::mt19937 random(seed);
  t->Fill(&random, 0.0f, 1.0f);
}

TEST(SoftmaxBackward, AgreesWithDoubleAtEveryLevel) {
  for (Isa isa : Levels()) {
    for (DType dtype : kFloats) {
      for (int64_t n : kWidths) {
        Tensor grad(dtype, kRows, n, 1), out(dtype, kRows, n, 2), grad_x(dtype, kRows, n, 3);
        Fill(1, &grad);
        Fill(2, &out);
        for (int64_t r = 0; r < kRows; ++r) {
          for (int64_t c = 0; c < n; ++c) {
            out.Set(r, c, std::fabs(out.Get(r, c)) / static_cast<float>(n));
          }
        }
        const float scale = 0.5f;
        ASSERT_TRUE(SoftmaxBackward(At(isa), {grad_x.view(), grad.view(), out.view(), scale}).ok());
        EXPECT_TRUE(grad_x.GapsUntouched());
        for (int64_t r = 0; r < kRows; ++r) {
          double sum = 0, most = 0;
          for (int64_t c = 0; c < n; ++c) {
            sum += static_cast<double>(grad.Get(r, c)) * out.Get(r, c);
            most = std::fmax(most, std::fabs(grad.Get(r, c)));
          }
          for (int64_t c = 0; c < n; ++c) {
            const double want = scale * out.Get(r, c) * (grad.Get(r, c) - sum);
            const double allowed = 1.05 * Unit(dtype) * std::fabs(want) +
                                   16 * 0x1p-24 * scale * out.Get(r, c) * (most + 1) + 1e-7 * most;
            ASSERT_NEAR(grad_x.Get(r, c), want, allowed + (dtype == DType::kFloat16 ? 6e-8 : 0))
                << Name(isa) << " " << Name(dtype) << " " << n;
          }
        }
        Tensor in_place = grad;
        ASSERT_TRUE(
            SoftmaxBackward(At(isa), {in_place.view(), in_place.view(), out.view(), scale}).ok());
        for (int64_t c = 0; c < n; ++c) ASSERT_EQ(in_place.Get(1, c), grad_x.Get(1, c));
      }
    }
  }
}

// Silu, whose derivative is simple; the other kinds share their formulas with act_backward.
TEST(ActMulBackward, AgreesWithDoubleAtEveryLevel) {
  for (Isa isa : Levels()) {
    for (DType dtype : kFloats) {
      for (int64_t n : kWidths) {
        Tensor grad(dtype, kRows, n, 1), gate_up(dtype, kRows, 2 * n, 2);
        Tensor out(dtype, kRows, 2 * n, 3);
        Fill(3, &grad);
        Fill(4, &gate_up);
        ASSERT_TRUE(ActMulBackward(At(isa),
                                   {out.view(), grad.view(), gate_up.view(), ActivationKind::kSilu})
                        .ok());
        EXPECT_TRUE(out.GapsUntouched());
        const double fast = dtype == DType::kBFloat16 ? 5e-4 : 2e-6;
        for (int64_t r = 0; r < kRows; ++r) {
          for (int64_t c = 0; c < n; ++c) {
            const double x = gate_up.Get(r, c), up = gate_up.Get(r, n + c), g = grad.Get(r, c);
            const double s = 1 / (1 + std::exp(-x));
            const double want[] = {g * up * s * (1 + x * (1 - s)), g * x * s};
            for (int half = 0; half < 2; ++half) {
              const double size = half == 0 ? std::fabs(g * up) : std::fabs(g * x);
              ASSERT_NEAR(out.Get(r, half * n + c), want[half],
                          1.05 * Unit(dtype) * std::fabs(want[half]) + fast * size + 1e-7)
                  << Name(isa) << " " << Name(dtype) << " " << n;
            }
          }
        }
        Tensor in_place = gate_up;
        ASSERT_TRUE(ActMulBackward(At(isa), {in_place.view(), grad.view(), in_place.view(),
                                             ActivationKind::kSilu})
                        .ok());
        for (int64_t c = 0; c < 2 * n; ++c) ASSERT_EQ(in_place.Get(1, c), out.Get(1, c));
      }
    }
  }
}

void ExpectRefused(const Status& status, StatusCode code, const std::string& part) {
  EXPECT_EQ(status.code(), code) << status.message();
  EXPECT_NE(status.message().find(part), std::string::npos) << status.message();
}

TEST(ActivationBackward, Refusals) {
  const LaunchContext ctx = At(Isa::kBaseline);
  const auto bad = StatusCode::kInvalidArgument;
  Tensor x(DType::kFloat32, 4, 8), y(DType::kFloat32, 4, 8), small(DType::kFloat32, 4, 4);
  Tensor odd(DType::kFloat32, 4, 7), half(DType::kFloat16, 4, 8), big(DType::kFloat32, 8, 8);
  ExpectRefused(SoftmaxBackward(ctx, {y.view(), small.view(), x.view(), 1.0f}), bad,
                "softmax_backward: argument 'grad_out' must have shape [4, 8] like 'out'");
  ExpectRefused(SoftmaxBackward(ctx, {half.view(), x.view(), x.view(), 1.0f}),
                StatusCode::kTypeError, "argument 'grad_x' must have dtype float32");
  MutableTensorView low = big.view(), high = big.view();
  low.shape[0] = high.shape[0] = 4;
  high.data = static_cast<float*>(high.mutable_data()) + 8;
  ExpectRefused(SoftmaxBackward(ctx, {high, x.view(), low, 1.0f}), bad, "overlaps 'out'");
  const ActivationKind silu = ActivationKind::kSilu;
  ExpectRefused(ActMulBackward(ctx, {y.view(), small.view(), odd.view(), silu}), bad,
                "must have an even last dimension");
  ExpectRefused(ActMulBackward(ctx, {y.view(), x.view(), x.view(), silu}), bad,
                "argument 'grad_out' must have shape [4, 4]");
  ExpectRefused(ActMulBackward(ctx, {y.view(), small.view(), x.view(), ActivationKind::kTanh}), bad,
                "argument 'kind' is not an activation of this operator");
}

}  // namespace
}  // namespace kpt::cpu

// act, act_backward, act_mul and softmax: every instruction set, dtype and tail against double
// precision; layouts, aliasing and refusals.
#include <cmath>
#include <random>
#include <string>

#include "gtest/gtest.h"
#include "kernels/activation/act.h"
#include "kernels/activation/act_backward.h"
#include "kernels/activation/act_mul.h"
#include "kernels/activation/softmax.h"
#include "tests/kernels/activation/activation_testing.h"
#include "tests/kernels/base/row_op_testing.h"

namespace kpt::cpu {
namespace {

using activation_testing::CheckActs;
using activation_testing::CheckSoftmax;
using activation_testing::CheckSpecialSoftmax;
using activation_testing::kKinds;
using testing_util::At;
using testing_util::kFloats;
using testing_util::kWidths;
using testing_util::Levels;
using testing_util::Tensor;
using K = ActivationKind;

TEST(Activation, AgreesWithDoubleAtEveryLevel) {
  for (Isa isa : Levels()) {
    SCOPED_TRACE(Name(isa));
    for (DType dtype : kFloats) {
      for (int64_t n : kWidths) CheckActs(At(isa), dtype, n);
    }
  }
}

TEST(Softmax, AgreesWithDoubleAtEveryLevel) {
  for (Isa isa : Levels()) {
    SCOPED_TRACE(Name(isa));
    for (DType dtype : kFloats) {
      for (int64_t n : {1, 2, 7, 16, 33, 65, 130, 1000, 8192, 8193, 9001}) {
        CheckSoftmax(At(isa), dtype, n);
      }
    }
  }
}

TEST(Softmax, SpecialRows) {
  for (DType dtype : kFloats) {
    for (Isa isa : Levels()) {
      for (int64_t n : {1, 5, 40, 100}) CheckSpecialSoftmax(At(isa), dtype, n);
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

// The four norms: every instruction set, dtype and tail against double precision; layouts, aliasing
// and refusals.
#include <algorithm>
#include <cmath>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/kernels/base/row_op_testing.h"
#include "tests/kernels/norm/norm_testing.h"

namespace kpt::cpu {
namespace {

using norm_testing::Call;
using norm_testing::Check;
using norm_testing::kCalls;
using testing_util::At;
using testing_util::kFloats;
using testing_util::kWidths;
using testing_util::Levels;
using testing_util::Tensor;

TEST(Norm, AgreesWithDoubleAtEveryLevel) {
  for (const Call& call : kCalls) {
    for (Isa isa : Levels()) {
      for (DType dtype : kFloats) {
        for (int64_t n : kWidths) {
          Check(call, At(isa), dtype, n, 0.0f, dtype);
          Check(call, At(isa), dtype, n, 0.5f, DType::kFloat32);
          Check(call, At(isa), dtype, n, -0.25f, std::nullopt);
        }
      }
    }
  }
}

// With mean 10000 and deviation 1, sums of squares in float would leave no correct digit.
TEST(Norm, LargeMeanDoesNotCancel) {
  for (Isa isa : Levels()) {
    for (int64_t n : {64, 1000, 5003}) {
      Check({true, false}, At(isa), DType::kFloat32, n, 10000.0f, DType::kFloat32);
      Check({true, true}, At(isa), DType::kFloat32, n, 10000.0f, DType::kFloat32);
    }
  }
}

// Narrow rows take their variance around the first element, unless it lies far from the others.
TEST(Norm, FirstElementMayBeAnOutlier) {
  for (Isa isa : Levels()) {
    for (DType dtype : kFloats) {
      for (int64_t n : {2, 64, 1000, 4096}) {
        for (float first : {3.0f, 5.0f, -100.0f, 2000.0f}) {
          Check({true, false}, At(isa), dtype, n, 0.0f, dtype, first);
          Check({true, true}, At(isa), dtype, n, 0.0f, std::nullopt, first);
        }
        Check({true, false}, At(isa), dtype, n, 100.0f, dtype, 0.0f);
      }
    }
  }
}

TEST(Norm, ConstantRowsAreTheBias) {
  for (Isa isa : Levels()) {
    for (DType dtype : kFloats) {
      Tensor x(dtype, 1, 100), y(dtype, 1, 100), bias(dtype, 1, 100);
      for (int64_t c = 0; c < 100; ++c) {
        x.Set(0, c, 7.0f);
        bias.Set(0, c, static_cast<float>(c));
      }
      ASSERT_TRUE(LayerNorm(At(isa), {y.view(), x.view(), {}, bias.row_view(), 1e-5f}).ok());
      for (int64_t c = 0; c < 100; ++c) EXPECT_EQ(y.Get(0, c), bias.Get(0, c)) << Name(dtype);
    }
  }
}

TEST(Norm, NotFiniteRowsAreNan) {
  for (Isa isa : Levels()) {
    for (DType dtype : kFloats) {
      for (int64_t place : {0, 1, 99}) {
        for (float value : {INFINITY, -INFINITY, NAN}) {
          Tensor x(dtype, 1, 100), y(dtype, 1, 100);
          for (int64_t c = 0; c < 100; ++c) x.Set(0, c, static_cast<float>(c));
          x.Set(0, place, value);
          ASSERT_TRUE(LayerNorm(At(isa), {y.view(), x.view(), {}, {}, 1e-5f}).ok());
          for (int64_t c = 0; c < 100; ++c) EXPECT_TRUE(std::isnan(y.Get(0, c))) << Name(dtype);
        }
      }
    }
  }
}

TEST(Norm, EveryLevelHasItsVariant) {
  std::set<std::string> names;
  Tensor x(DType::kFloat32, 2, 8), y(DType::kFloat32, 2, 8);
  for (Isa isa : Levels()) {
    LaunchRecord record;
    ASSERT_TRUE(LayerNorm(At(isa, &record), {y.view(), x.view(), {}, {}, 1e-5f}).ok());
    names.insert(record.variant);
  }
  EXPECT_EQ(names.size(), std::min<size_t>(LayerNormVariants().size(), Levels().size()));
}

TEST(Norm, InPlaceGivesTheSame) {
  std::mt19937 random(9);
  for (DType dtype : kFloats) {
    Tensor x(dtype, 4, 200), residual(dtype, 4, 200), y(dtype, 4, 200), sum(dtype, 4, 200);
    x.Fill(&random, 0, 1);
    residual.Fill(&random, 0, 1);
    const LaunchContext ctx = At(DetectedIsa());
    const TensorView none;
    for (const Call& call : kCalls) {
      Tensor x2 = x, residual2 = residual;
      ASSERT_TRUE(call.Run(ctx, y.view(), sum.view(), x.view(), residual.view(), none, none).ok());
      // y over x, the sum over the residual.
      ASSERT_TRUE(
          call.Run(ctx, x2.view(), residual2.view(), x2.view(), residual2.view(), none, none).ok());
      EXPECT_EQ(x2.bytes(), y.bytes());
      if (call.add) {
        EXPECT_EQ(residual2.bytes(), sum.bytes());
      }
    }
  }
}

TEST(Norm, EmptyIsFine) {
  Tensor none(DType::kFloat32, 0, 8), y(DType::kFloat32, 0, 8);
  EXPECT_TRUE(LayerNorm(At(Isa::kBaseline), {y.view(), none.view(), {}, {}, 1e-5f}).ok());
  Tensor thin(DType::kFloat32, 3, 0), z(DType::kFloat32, 3, 0);
  EXPECT_TRUE(RmsNorm(At(Isa::kBaseline), {z.view(), thin.view(), {}, 1e-5f}).ok());
}

void ExpectRefused(const Status& status, StatusCode code, const std::string& part) {
  EXPECT_EQ(status.code(), code) << status.message();
  EXPECT_NE(status.message().find(part), std::string::npos) << status.message();
}

TEST(Norm, Refusals) {
  const LaunchContext ctx = At(Isa::kBaseline);
  Tensor x(DType::kFloat32, 4, 8), y(DType::kFloat32, 4, 8), small(DType::kFloat32, 3, 8);
  Tensor half(DType::kFloat16, 4, 8), weight(DType::kFloat32, 1, 7), big(DType::kFloat32, 8, 8);
  const auto bad = StatusCode::kInvalidArgument;
  ExpectRefused(LayerNorm(ctx, {small.view(), x.view(), {}, {}, 1e-5f}), bad,
                "layer_norm: argument 'y' must have shape [4, 8] like 'x', got [3, 8]");
  ExpectRefused(LayerNorm(ctx, {half.view(), x.view(), {}, {}, 1e-5f}), StatusCode::kTypeError,
                "argument 'y' must have dtype float32");
  ExpectRefused(LayerNorm(ctx, {y.view(), x.view(), weight.row_view(), {}, 1e-5f}), bad,
                "argument 'weight' must have shape [8], got [7]");
  ExpectRefused(RmsNorm(ctx, {y.view(), x.view(), half.row_view(), 1e-5f}), StatusCode::kTypeError,
                "rms_norm: argument 'weight' must have dtype float32");
  MutableTensorView spread = x.view();
  spread.strides[1] = 2;
  spread.shape[0] = 1;
  MutableTensorView one = y.view();
  one.shape[0] = 1;
  ExpectRefused(RmsNorm(ctx, {one, spread, {}, 1e-5f}), bad, "dense last dimension");
  MutableTensorView scalar = x.view();
  scalar.rank = 0;
  ExpectRefused(RmsNorm(ctx, {scalar, scalar, {}, 1e-5f}), bad, "at least 1 dimension");
  MutableTensorView integers = x.view();
  integers.dtype = DType::kInt32;
  ExpectRefused(RmsNorm(ctx, {integers, integers, {}, 1e-5f}), StatusCode::kTypeError, "int32");
  // Overlaps: shifted by a row; an output that overlaps itself; two outputs in one place.
  MutableTensorView low = big.view(), high = big.view();
  low.shape[0] = high.shape[0] = 4;
  high.data = static_cast<float*>(high.mutable_data()) + 8;
  ExpectRefused(RmsNorm(ctx, {high, low, {}, 1e-5f}), bad, "argument 'y' overlaps 'x' in memory");
  MutableTensorView flat = y.view();
  flat.strides[0] = 0;
  ExpectRefused(RmsNorm(ctx, {flat, x.view(), {}, 1e-5f}), bad, "must not overlap itself");
  ExpectRefused(AddRmsNorm(ctx, {y.view(), y.view(), x.view(), big.view(), {}, 1e-5f}), bad,
                "argument 'residual' must have shape");
  ExpectRefused(AddRmsNorm(ctx, {y.view(), y.view(), x.view(), x.view(), {}, 1e-5f}), bad,
                "argument 'y' overlaps 'new_residual'");
}

}  // namespace
}  // namespace kpt::cpu

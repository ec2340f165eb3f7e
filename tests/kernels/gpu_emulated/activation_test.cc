// The activation family's GPU kernels in emulation (not run on a GPU): every variant, dtype and
// tail against double precision.
#include <cmath>
#include <limits>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/kernels/activation/activation_testing.h"
#include "tests/kernels/base/row_op_testing.h"
#include "tests/kernels/gpu_emulated/emulated_testing.h"

namespace kpt::emulated {
namespace {

using activation_testing::CheckActs;
using activation_testing::CheckSoftmax;
using activation_testing::CheckSpecialSoftmax;
using activation_testing::kKinds;
using emulated_testing::Context;
using testing_util::kFloats;
using testing_util::Tensor;
using K = ActivationKind;

TEST(EmulatedAct, AgreesWithDouble) {
  for (DType dtype : kFloats) {
    for (int64_t n : {1, 7, 127, 129, 513, 4097}) CheckActs(Context("scalars"), dtype, n);
    for (int64_t n : {8, 64, 264, 512, 4104}) CheckActs(Context("vectors"), dtype, n, 8);
  }
}

TEST(EmulatedAct, DenseTensorsAreOneLongRow) {
  for (int64_t rows : {1, 3, 700}) {
    Tensor x(DType::kBFloat16, rows, 104), y(DType::kBFloat16, rows, 104);
    std::mt19937 random(5);
    x.Fill(&random, 0, 2);
    LaunchRecord record;
    ASSERT_TRUE(Act(Context(nullptr, &record), {y.view(), x.view(), K::kSilu}).ok());
    EXPECT_STREQ(record.variant, "vectors");
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < 104; ++c) {
        const double want = activation_testing::Exact(K::kSilu, x.Get(r, c));
        ASSERT_NEAR(y.Get(r, c), want, activation_testing::Allowed(DType::kBFloat16, want, 0.2));
      }
    }
  }
}

TEST(EmulatedAct, SpecialValues) {
  const float inf = std::numeric_limits<float>::infinity();
  for (DType dtype : kFloats) {
    for (const char* variant : {"vectors", "scalars"}) {
      Tensor x(dtype, 1, 8), y(dtype, 1, 8), grad(dtype, 1, 8);
      for (int64_t c = 0; c < 8; ++c) {
        x.Set(0, c, c == 0 ? std::nanf("") : c == 1 ? inf : c == 2 ? -inf : 0.0f);
        grad.Set(0, c, 1.0f);
      }
      for (K kind : kKinds) {
        const std::string where = std::string(Name(dtype)) + " " + variant + " kind " +
                                  std::to_string(static_cast<int>(kind));
        ASSERT_TRUE(Act(Context(variant), {y.view(), x.view(), kind}).ok());
        EXPECT_TRUE(std::isnan(y.Get(0, 0))) << where;
        EXPECT_EQ(y.Get(0, 1), kind == K::kSigmoid || kind == K::kTanh ? 1.0f : inf) << where;
        if (kind == K::kRelu || kind == K::kSigmoid) {
          EXPECT_EQ(y.Get(0, 2), 0.0f) << where;
        } else if (kind == K::kTanh) {
          EXPECT_EQ(y.Get(0, 2), -1.0f) << where;
        } else {
          EXPECT_TRUE(std::isnan(y.Get(0, 2))) << where;
        }
        EXPECT_EQ(y.Get(0, 3), kind == K::kSigmoid ? 0.5f : 0.0f) << where;
        ASSERT_TRUE(ActBackward(Context(variant), {y.view(), grad.view(), x.view(), kind}).ok());
        EXPECT_TRUE(kind == K::kRelu || std::isnan(y.Get(0, 0))) << where;
      }
    }
  }
}

// Arguments far out, where exponentials overflow or vanish.
TEST(EmulatedAct, FarOut) {
  for (DType dtype : kFloats) {
    Tensor x(dtype, 1, 64), y(dtype, 1, 64);
    const double most = dtype == DType::kFloat16 ? 4.0 : 37.0;
    for (int64_t c = 0; c < 64; ++c) {
      const double size = std::pow(10.0, -most + most * static_cast<double>(c / 2) / 16);
      x.Set(0, c, static_cast<float>(c % 2 == 0 ? size : -size));
    }
    for (K kind : kKinds) {
      ASSERT_TRUE(Act(Context(), {y.view(), x.view(), kind}).ok());
      for (int64_t c = 0; c < 64; ++c) {
        const double want = activation_testing::Exact(kind, x.Get(0, c));
        ASSERT_NEAR(y.Get(0, c), want, activation_testing::Allowed(dtype, want, 1e-4))
            << Name(dtype) << " kind " << static_cast<int>(kind) << " at " << x.Get(0, c);
      }
    }
  }
}

TEST(EmulatedAct, InPlaceGivesTheSame) {
  std::mt19937 random(6);
  for (int64_t n : {64, 65}) {
    Tensor x(DType::kFloat16, 5, n), y = x, back = x, grad = x;
    x.Fill(&random, 0, 2);
    grad.Fill(&random, 0, 2);
    Tensor in_place = x, over_grad = grad;
    ASSERT_TRUE(Act(Context(), {y.view(), x.view(), K::kGelu}).ok());
    ASSERT_TRUE(Act(Context(), {in_place.view(), in_place.view(), K::kGelu}).ok());
    EXPECT_EQ(in_place.bytes(), y.bytes());
    ASSERT_TRUE(ActBackward(Context(), {back.view(), grad.view(), x.view(), K::kGelu}).ok());
    ASSERT_TRUE(
        ActBackward(Context(), {over_grad.view(), over_grad.view(), x.view(), K::kGelu}).ok());
    EXPECT_EQ(over_grad.bytes(), back.bytes());
  }
}

TEST(EmulatedSoftmax, AgreesWithDouble) {
  for (DType dtype : kFloats) {
    for (int64_t n : {1, 2, 31, 127, 129, 1000, 4097}) {
      CheckSoftmax(Context("rows_scalar"), dtype, n);
    }
    for (int64_t n : {8, 64, 128, 264, 1024, 8192}) {
      CheckSoftmax(Context("rows_held"), dtype, n, 8);
      CheckSoftmax(Context("rows_long"), dtype, n, 8);
    }
  }
  CheckSoftmax(Context(), DType::kBFloat16, 32768, 8);
  CheckSoftmax(Context(), DType::kFloat32, 262144, 8);
}

TEST(EmulatedSoftmax, SpecialRows) {
  for (DType dtype : kFloats) {
    for (int64_t n : {1, 5, 40, 100}) CheckSpecialSoftmax(Context("rows_scalar"), dtype, n);
    for (int64_t n : {8, 40, 1024}) {
      CheckSpecialSoftmax(Context("rows_held"), dtype, n);
      CheckSpecialSoftmax(Context("rows_long"), dtype, n);
    }
  }
}

// Elements of -infinity or NaN before and after the others of their thread.
TEST(EmulatedSoftmax, InfinitiesMayComeFirst) {
  const float inf = std::numeric_limits<float>::infinity();
  constexpr int64_t kCols = 65536;
  for (const char* variant : {"rows_long", "rows_scalar"}) {
    Tensor x(DType::kFloat32, 3, kCols), y(DType::kFloat32, 3, kCols);
    for (int64_t c = 0; c < kCols; ++c) {
      x.Set(0, c, c < kCols / 2 ? -inf : 0.0f);
      x.Set(1, c, c < kCols / 2 ? 0.0f : -inf);
      x.Set(2, c, c == 3 ? std::nanf("") : c < kCols / 2 ? -inf : 0.0f);
    }
    ASSERT_TRUE(Softmax(Context(variant), {y.view(), x.view(), 1.0f}).ok());
    for (int64_t c = 0; c < kCols; c += 111) {
      ASSERT_EQ(y.Get(0, c), c < kCols / 2 ? 0.0f : 2.0f / kCols) << variant;
      ASSERT_EQ(y.Get(1, c), c < kCols / 2 ? 2.0f / kCols : 0.0f) << variant;
      ASSERT_TRUE(std::isnan(y.Get(2, c))) << variant;
    }
  }
}

TEST(EmulatedSoftmax, OrderAndBatchDoNotMatter) {
  std::mt19937 random(8);
  Tensor x(DType::kFloat16, 40, 264), y = x;
  x.Fill(&random, 0, 3);
  for (const char* variant : {"rows_held", "rows_long", "rows_scalar"}) {
    std::set<std::vector<unsigned char>> results;
    for (uint32_t seed : {1u, 2u, 3u}) {
      gpu::emulator::SetSeed(seed);
      ASSERT_TRUE(Softmax(Context(variant), {y.view(), x.view(), 1.0f}).ok());
      results.insert(y.bytes());
    }
    EXPECT_EQ(results.size(), 1u) << variant;
    Tensor one(DType::kFloat16, 1, 264);
    MutableTensorView row = x.view();
    row.shape[0] = 1;
    row.data = static_cast<const uint16_t*>(row.data) + 7 * 264;
    ASSERT_TRUE(Softmax(Context(variant), {one.view(), row, 1.0f}).ok());
    for (int64_t c = 0; c < 264; ++c) ASSERT_EQ(one.Get(0, c), y.Get(7, c)) << variant;
  }
}

}  // namespace
}  // namespace kpt::emulated

// The norms' GPU kernels in emulation (not run on a GPU): every variant, dtype and tail against
// double precision.
#include <cmath>
#include <optional>
#include <random>
#include <set>
#include <string>

#include "gtest/gtest.h"
#include "tests/kernels/gpu_emulated/emulated_testing.h"
#include "tests/kernels/norm/norm_testing.h"

namespace kpt::emulated {
namespace {

using emulated_testing::Context;
using norm_testing::Call;
using norm_testing::Check;
using norm_testing::kCalls;
using testing_util::kFloats;
using testing_util::Tensor;

// Odd lengths, lengths of whole vectors, and the borders between threads, waves and blocks. Rows
// lie apart by odd gaps there, so all of these are read element by element.
constexpr int64_t kLengths[] = {1, 2, 8, 31, 64, 127, 128, 129, 1000, 1024, 4096, 4097};
// Whole vectors of every dtype.
constexpr int64_t kVectorLengths[] = {8, 16, 64, 128, 264, 1024, 2048, 4096, 8192};

TEST(EmulatedNorm, ScalarRowsAgreeWithDouble) {
  for (const Call& call : kCalls) {
    for (DType dtype : kFloats) {
      for (int64_t n : kLengths) {
        Check(call, Context("rows_scalar"), dtype, n, 0.5f, dtype);
        Check(call, Context("rows_scalar"), dtype, n, -0.25f, DType::kFloat32);
      }
      Check(call, Context("rows_scalar"), dtype, 129, 0.0f, std::nullopt);
    }
  }
}

// Rows of whole vectors, dense. Returns y, for comparisons.
std::vector<unsigned char> CheckVectors(const Call& call, const char* variant, DType dtype,
                                        int64_t rows, int64_t n, std::optional<DType> params) {
  // A generator each: the values of a row do not depend on how many there are.
  std::mt19937 random[4] = {std::mt19937(1), std::mt19937(2), std::mt19937(3), std::mt19937(4)};
  Tensor x(dtype, rows, n, 16), residual(dtype, rows, n), y(dtype, rows, n, 8);
  Tensor sum(dtype, rows, n);
  x.Fill(&random[0], 0.5f, 1.0f);
  residual.Fill(&random[1], 0.0f, 1.0f);
  Tensor weight(params.value_or(dtype), 1, n), bias(params.value_or(dtype), 1, n);
  weight.Fill(&random[2], 1.0f, 0.5f);
  bias.Fill(&random[3], 0.0f, 0.5f);
  const TensorView none;
  LaunchRecord record;
  const Status status =
      call.Run(Context(variant, &record), y.view(), sum.view(), x.view(), residual.view(),
               params ? weight.row_view() : none, params ? bias.row_view() : none);
  EXPECT_TRUE(status.ok()) << status.message();
  if (!status.ok()) return {};
  EXPECT_TRUE(y.GapsUntouched());
  const std::string where =
      std::string(record.variant) + " " + Name(dtype) + " " + std::to_string(n);
  for (int64_t r : std::set<int64_t>{0, rows - 1}) {
    const std::vector<double> want = norm_testing::Exact(
        call, call.add ? sum : x, r, params ? &weight : nullptr, params ? &bias : nullptr);
    for (int64_t c = 0; c < n; ++c) {
      const double w = want[static_cast<size_t>(c)];
      EXPECT_NEAR(y.Get(r, c), w, 1.05 * testing_util::Unit(dtype) * std::fabs(w) + 0x1p-18)
          << where << " row " << r << " col " << c;
      if (::testing::Test::HasFailure()) return {};
    }
  }
  return y.bytes();
}

TEST(EmulatedNorm, VectorRowsAgreeWithDouble) {
  for (const Call& call : kCalls) {
    for (DType dtype : kFloats) {
      for (int64_t n : kVectorLengths) {
        CheckVectors(call, "rows_held", dtype, 3, n, dtype);
        CheckVectors(call, "rows_long", dtype, 3, n, DType::kFloat32);
      }
      CheckVectors(call, "rows_held", dtype, 300, 64, std::nullopt);
    }
  }
}

TEST(EmulatedNorm, LongestRows) {
  const Call layer{true, false}, add_rms{false, true};
  CheckVectors(layer, "rows_held", DType::kBFloat16, 1, 32768, DType::kBFloat16);
  CheckVectors(add_rms, "rows_held", DType::kFloat32, 1, 16384, DType::kFloat32);
  CheckVectors(layer, nullptr, DType::kBFloat16, 2, 262144, DType::kBFloat16);
  CheckVectors(add_rms, nullptr, DType::kFloat32, 1, 262144, DType::kFloat32);
  Check(layer, Context(), DType::kFloat16, 262143, 0.5f, DType::kFloat32);
}

// A row whose first part is far from the rest: the worst case for squares taken around its mean.
TEST(EmulatedNorm, FirstPartMayLieFarFromTheRest) {
  constexpr int64_t kCols = 262144;
  for (int64_t high : {int64_t{8192}, int64_t{16384}, int64_t{32768}}) {
    Tensor x(DType::kFloat32, 1, kCols), y(DType::kFloat32, 1, kCols);
    std::mt19937 random(3);
    x.Fill(&random, 0.0f, 1.0f);
    for (int64_t c = 0; c < high; ++c) x.Set(0, c, x.Get(0, c) + 1000.0f);
    for (const char* variant : {"rows_long", "rows_scalar"}) {
      ASSERT_TRUE(LayerNorm(Context(variant), {y.view(), x.view(), {}, {}, 1e-5f}).ok());
      const std::vector<double> want = norm_testing::Exact({true, false}, x, 0, nullptr, nullptr);
      for (int64_t c = 0; c < kCols; c += 77) {
        ASSERT_NEAR(y.Get(0, c), want[static_cast<size_t>(c)], 2e-5) << variant << " " << high;
      }
    }
  }
}

TEST(EmulatedNorm, LargeMeanDoesNotCancel) {
  for (int64_t n : {64, 1000, 5003}) {
    Check({true, false}, Context(), DType::kFloat32, n, 10000.0f, DType::kFloat32);
    Check({true, true}, Context(), DType::kFloat32, n, 10000.0f, DType::kFloat32);
  }
}

TEST(EmulatedNorm, RowsDoNotDependOnTheBatch) {
  for (const Call& call : kCalls) {
    for (const char* variant : {"rows_held", "rows_long", "rows_scalar"}) {
      const auto many = CheckVectors(call, variant, DType::kBFloat16, 37, 128, DType::kFloat32);
      const auto one = CheckVectors(call, variant, DType::kBFloat16, 1, 128, DType::kFloat32);
      EXPECT_TRUE(std::equal(one.begin(), one.end(), many.begin())) << variant;
    }
  }
}

// Any order of the threads gives the same bits.
TEST(EmulatedNorm, OrderOfThreadsDoesNotMatter) {
  for (const char* variant : {"rows_held", "rows_long", "rows_scalar"}) {
    std::set<std::vector<unsigned char>> results;
    for (uint32_t seed : {1u, 2u, 3u}) {
      gpu::emulator::SetSeed(seed);
      results.insert(CheckVectors({true, true}, variant, DType::kFloat16, 2, 4096, std::nullopt));
    }
    EXPECT_EQ(results.size(), 1u) << variant;
  }
}

TEST(EmulatedNorm, NotFiniteRowsAreNan) {
  for (const char* variant : {"rows_held", "rows_long", "rows_scalar"}) {
    for (DType dtype : kFloats) {
      for (int64_t place : {0, 1, 127}) {
        for (float value : {INFINITY, -INFINITY, NAN}) {
          Tensor x(dtype, 2, 128), y(dtype, 2, 128);
          for (int64_t c = 0; c < 128; ++c) {
            x.Set(0, c, static_cast<float>(c));
            x.Set(1, c, static_cast<float>(c));
          }
          x.Set(0, place, value);
          ASSERT_TRUE(LayerNorm(Context(variant), {y.view(), x.view(), {}, {}, 1e-5f}).ok());
          for (int64_t c = 0; c < 128; ++c) {
            EXPECT_TRUE(std::isnan(y.Get(0, c))) << variant << Name(dtype);
            EXPECT_TRUE(std::isfinite(y.Get(1, c))) << variant << Name(dtype);
          }
        }
      }
    }
  }
}

TEST(EmulatedNorm, InPlaceGivesTheSame) {
  std::mt19937 random(9);
  const TensorView none;
  for (int64_t n : {200, 201}) {
    Tensor x(DType::kBFloat16, 4, n), residual = x, y = x, sum = x;
    x.Fill(&random, 0, 1);
    residual.Fill(&random, 0, 1);
    for (const char* variant : {"rows_long", "rows_scalar", static_cast<const char*>(nullptr)}) {
      if (n % 8 != 0 && variant != nullptr && std::string(variant) == "rows_long") continue;
      for (const Call& call : kCalls) {
        Tensor x2 = x, residual2 = residual;
        ASSERT_TRUE(
            call.Run(Context(variant), y.view(), sum.view(), x.view(), residual.view(), none, none)
                .ok());
        ASSERT_TRUE(call.Run(Context(variant), x2.view(), residual2.view(), x2.view(),
                             residual2.view(), none, none)
                        .ok());
        EXPECT_EQ(x2.bytes(), y.bytes());
        if (call.add) {
          EXPECT_EQ(residual2.bytes(), sum.bytes());
        }
      }
    }
  }
}

TEST(EmulatedNorm, Permuted) {
  // [3, 5, 64] with its leading dimensions exchanged: rows two strides apart.
  std::mt19937 random(4);
  Tensor x(DType::kFloat32, 15, 64), y(DType::kFloat32, 15, 64), want(DType::kFloat32, 15, 64);
  x.Fill(&random, 0, 1);
  ASSERT_TRUE(RmsNorm(Context(), {want.view(), x.view(), {}, 1e-6f}).ok());
  MutableTensorView from = x.view(), to = y.view();
  for (MutableTensorView* v : {&from, &to}) {
    v->rank = 3;
    v->shape[0] = 5, v->shape[1] = 3, v->shape[2] = 64;
    v->strides[0] = 64, v->strides[1] = 5 * 64, v->strides[2] = 1;
  }
  ASSERT_TRUE(RmsNorm(Context(), {to, from, {}, 1e-6f}).ok());
  EXPECT_EQ(y.bytes(), want.bytes());
}

TEST(EmulatedNorm, TheVariantFollowsTheLayout) {
  const auto variant = [](DType dtype, int64_t n, int64_t gap, int64_t shift = 0) {
    Tensor x(dtype, 2, n + shift, gap), y(dtype, 2, n);
    MutableTensorView view = x.view();
    view.shape[1] = n;
    view.data = static_cast<char*>(view.mutable_data()) + shift * ItemSize(dtype);
    LaunchRecord record;
    EXPECT_TRUE(RmsNorm(Context(nullptr, &record), {y.view(), view, {}, 1e-6f}).ok());
    return std::string(record.variant);
  };
  EXPECT_EQ(variant(DType::kBFloat16, 64, 0), "rows_held");
  EXPECT_EQ(variant(DType::kBFloat16, 64, 8), "rows_held");
  EXPECT_EQ(variant(DType::kBFloat16, 64, 4), "rows_scalar");
  EXPECT_EQ(variant(DType::kFloat32, 64, 4), "rows_held");
  EXPECT_EQ(variant(DType::kBFloat16, 65, 0), "rows_scalar");
  EXPECT_EQ(variant(DType::kBFloat16, 64, 7, 1), "rows_scalar");
  EXPECT_EQ(variant(DType::kBFloat16, 32768, 0), "rows_held");
  EXPECT_EQ(variant(DType::kBFloat16, 32776, 0), "rows_long");
  EXPECT_EQ(variant(DType::kFloat32, 16388, 0), "rows_long");
}

TEST(EmulatedNorm, EmptyIsFine) {
  Tensor none(DType::kFloat32, 0, 8), y(DType::kFloat32, 0, 8);
  EXPECT_TRUE(LayerNorm(Context(), {y.view(), none.view(), {}, {}, 1e-5f}).ok());
  Tensor thin(DType::kFloat32, 3, 0), z(DType::kFloat32, 3, 0);
  EXPECT_TRUE(RmsNorm(Context(), {z.view(), thin.view(), {}, 1e-5f}).ok());
}

TEST(EmulatedNorm, NoDeviceNoVariant) {
  Tensor x(DType::kFloat32, 1, 8), y(DType::kFloat32, 1, 8);
  EXPECT_EQ(RmsNorm(LaunchContext(), {y.view(), x.view(), {}, 1e-6f}).code(),
            StatusCode::kUnimplemented);
}

}  // namespace
}  // namespace kpt::emulated

// The gradients of the norms: their GPU kernels in emulation (not run on a GPU), against double
// precision.
#include "kernels/norm/gpu/norm_backward.h"

#include <cmath>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/kernels/base/row_op_testing.h"
#include "tests/kernels/gpu_emulated/emulated_testing.h"

namespace kpt::emulated {
namespace {

using testing_util::kFloats;
using testing_util::Tensor;
using testing_util::Unit;

struct Problem {
  bool mean;
  DType dtype;
  int64_t rows, cols;
  int64_t gap = 0;
  DType params = DType::kFloat32;
  bool weighted = true;
  bool add = true;
  bool sums = true;  // the gradients of the parameters are wanted
  float center = 0.25f;
};

struct Result {
  Tensor grad_x, grad_weight, grad_bias;
  bool operator<(const Result& o) const {
    const auto key = [](const Result& r) {
      return std::vector<std::vector<unsigned char>>{r.grad_x.bytes(), r.grad_weight.bytes(),
                                                     r.grad_bias.bytes()};
    };
    return key(*this) < key(o);
  }
};

enum class InPlace { kNo, kOverX, kOverGradY };

struct Inputs {
  Tensor x, grad_y, weight, more;
  explicit Inputs(const Problem& p)
      : x(p.dtype, p.rows, p.cols, p.gap),
        grad_y(p.dtype, p.rows, p.cols, p.gap),
        weight(p.params, 1, p.cols),
        more(p.dtype, p.rows, p.cols, p.gap) {
    std::mt19937 random[4] = {std::mt19937(1), std::mt19937(2), std::mt19937(3), std::mt19937(4)};
    x.Fill(&random[0], p.center, 1.0f);
    grad_y.Fill(&random[1], 0.1f, 1.0f);
    weight.Fill(&random[2], 1.0f, 0.5f);
    more.Fill(&random[3], 0.0f, 1.0f);
  }
};

Status RunBackward(const Problem& p, Inputs in, const char* variant, InPlace in_place, Result* out,
                   std::string* ran) {
  const TensorView none;
  MutableTensorView grad_x = in_place == InPlace::kNo      ? out->grad_x.view()
                             : in_place == InPlace::kOverX ? in.x.view()
                                                           : in.grad_y.view();
  LaunchRecord record;
  LaunchContext ctx = emulated_testing::Context(variant, &record);
  RmsNormBackwardArgs rms;
  rms.grad_x = grad_x;
  if (p.sums) rms.grad_weight = out->grad_weight.row_view();
  rms.grad_y = in.grad_y.view();
  rms.x = in.x.view();
  rms.weight = p.weighted ? in.weight.row_view() : none;
  rms.grad_new_residual = p.add ? in.more.view() : none;
  rms.eps = 1e-5f;
  LayerNormBackwardArgs layer;
  layer.grad_x = grad_x;
  layer.grad_weight = rms.grad_weight;
  if (p.sums) layer.grad_bias = out->grad_bias.row_view();
  layer.grad_y = rms.grad_y;
  layer.x = rms.x;
  layer.weight = rms.weight;
  layer.grad_new_residual = rms.grad_new_residual;
  layer.eps = rms.eps;
  const int64_t bytes = p.mean ? LayerNormBackwardWorkspaceBytes(ctx, layer)
                               : RmsNormBackwardWorkspaceBytes(ctx, rms);
  // Exactly what was asked for, so that AddressSanitizer sees more; NaN where it is not written.
  std::vector<float> floats(static_cast<size_t>(bytes / 4), NAN);
  ctx.workspace = floats.data();
  ctx.workspace_bytes = bytes;
  const Status status = p.mean ? LayerNormBackward(ctx, layer) : RmsNormBackward(ctx, rms);
  if (in_place == InPlace::kOverX) out->grad_x = in.x;
  if (in_place == InPlace::kOverGradY) out->grad_x = in.grad_y;
  if (record.variant != nullptr && ran != nullptr) *ran = record.variant;
  return status;
}

Result Check(const Problem& p, const char* variant = nullptr, InPlace in_place = InPlace::kNo) {
  const Inputs in(p);
  Result got{Tensor(p.dtype, p.rows, p.cols, p.gap), Tensor(p.params, 1, p.cols),
             Tensor(p.params, 1, p.cols)};
  std::string ran;
  const Status status = RunBackward(p, in, variant, in_place, &got, &ran);
  EXPECT_TRUE(status.ok()) << status.message();
  if (!status.ok()) return got;
  EXPECT_TRUE(got.grad_x.GapsUntouched());
  const std::string where = ran + " " + Name(p.dtype) + " [" + std::to_string(p.rows) + ", " +
                            std::to_string(p.cols) + "]" + (p.mean ? " mean" : "");
  const double n = static_cast<double>(p.cols);
  std::vector<double> weight_sum(static_cast<size_t>(p.cols)), bias_sum(weight_sum);
  std::vector<double> weight_size(weight_sum), bias_size(weight_sum);
  for (int64_t r = 0; r < p.rows; ++r) {
    double sum = 0, squares = 0, sum_g = 0, sum_gn = 0;
    for (int64_t c = 0; c < p.cols; ++c) sum += in.x.Get(r, c);
    const double mean = p.mean ? sum / n : 0;
    for (int64_t c = 0; c < p.cols; ++c) {
      squares += (in.x.Get(r, c) - mean) * (in.x.Get(r, c) - mean);
    }
    const double rstd = 1 / std::sqrt(squares / n + static_cast<double>(1e-5f));
    const auto normalized = [&](int64_t c) { return (in.x.Get(r, c) - mean) * rstd; };
    const auto g = [&](int64_t c) {
      return static_cast<double>(in.grad_y.Get(r, c)) * (p.weighted ? in.weight.Get(0, c) : 1.0f);
    };
    for (int64_t c = 0; c < p.cols; ++c) {
      sum_g += g(c);
      sum_gn += g(c) * normalized(c);
      const size_t i = static_cast<size_t>(c);
      weight_sum[i] += in.grad_y.Get(r, c) * normalized(c);
      bias_sum[i] += in.grad_y.Get(r, c);
      weight_size[i] += std::fabs(in.grad_y.Get(r, c) * normalized(c));
      bias_size[i] += std::fabs(in.grad_y.Get(r, c));
    }
    for (int64_t c = 0; c < p.cols; ++c) {
      const double want = rstd * (g(c) - (p.mean ? sum_g / n : 0) - normalized(c) * sum_gn / n) +
                          (p.add ? in.more.Get(r, c) : 0.0f);
      // One rounding, and float arithmetic on terms of a few units.
      const double allowed =
          1.05 * Unit(p.dtype) * std::fabs(want) +
          0x1p-19 * (1 + std::fabs(g(c)) + std::fabs(normalized(c))) * std::fmax(1.0, rstd);
      if (!(std::fabs(got.grad_x.Get(r, c) - want) <= allowed)) {
        ADD_FAILURE() << where << " row " << r << " col " << c << ": " << got.grad_x.Get(r, c)
                      << " for " << want << " within " << allowed;
        return got;
      }
    }
  }
  for (int64_t c = 0; p.sums && c < p.cols; ++c) {
    const size_t i = static_cast<size_t>(c);
    EXPECT_NEAR(got.grad_weight.Get(0, c), weight_sum[i],
                1.05 * Unit(p.params) * std::fabs(weight_sum[i]) + 0x1p-20 * weight_size[i] + 1e-6)
        << where << " weight " << c;
    if (p.mean) {
      EXPECT_NEAR(got.grad_bias.Get(0, c), bias_sum[i],
                  1.05 * Unit(p.params) * std::fabs(bias_sum[i]) + 0x1p-20 * bias_size[i] + 1e-6)
          << where << " bias " << c;
    }
    if (::testing::Test::HasFailure()) return got;
  }
  return got;
}

TEST(EmulatedNormBackward, HeldRowsAgreeWithDouble) {
  for (bool mean : {false, true}) {
    for (DType dtype : kFloats) {
      for (int64_t n : {8, 64, 128, 264, 1024, 2048, 4096}) {
        Check({mean, dtype, 7, n}, "rows_held");
        Check({mean, dtype, 5, n, 8, dtype, n % 3 == 0, false, true}, "rows_held");
      }
      Check({mean, dtype, 200, 64}, "rows_held");
      Check({mean, dtype, 3, 6144}, "rows_held");
    }
    Check({mean, DType::kBFloat16, 7, 8192}, "rows_held");
    Check({mean, DType::kFloat16, 7, 12288}, "rows_held");
  }
  Check({false, DType::kBFloat16, 4, 16384}, "rows_held");
}

TEST(EmulatedNormBackward, ScalarRowsAgreeWithDouble) {
  for (bool mean : {false, true}) {
    for (DType dtype : kFloats) {
      for (int64_t n : {1, 2, 31, 127, 129, 1000, 4097}) {
        Check({mean, dtype, 7, n, 3, dtype}, "rows_scalar");
        Check({mean, dtype, 3, n, 1, DType::kFloat32, false, false}, "rows_scalar");
      }
      Check({mean, dtype, 200, 65}, "rows_scalar");
    }
    Check({mean, DType::kBFloat16, 2, 20001}, nullptr);
    Problem longest{mean, DType::kBFloat16, 1, 262144};
    longest.sums = false;
    Check(longest);
  }
}

TEST(EmulatedNormBackward, LargeMeanDoesNotCancel) {
  for (int64_t n : {64, 1000, 5003}) {
    Problem p{true, DType::kFloat32, 3, n};
    p.center = 10000.0f;
    Check(p);
  }
}

TEST(EmulatedNormBackward, InPlaceGivesTheSame) {
  for (bool mean : {false, true}) {
    for (const char* variant : {"rows_held", "rows_scalar"}) {
      const Problem p{mean, DType::kBFloat16, 9, 264};
      std::set<Result> results = {Check(p, variant), Check(p, variant, InPlace::kOverX),
                                  Check(p, variant, InPlace::kOverGradY)};
      EXPECT_EQ(results.size(), 1u);
    }
  }
}

TEST(EmulatedNormBackward, OrderOfThreadsDoesNotMatter) {
  for (const char* variant : {"rows_held", "rows_scalar"}) {
    std::set<Result> results;
    for (uint32_t seed : {1u, 2u, 3u}) {
      gpu::emulator::SetSeed(seed);
      results.insert(Check({true, DType::kFloat16, 50, 128}, variant));
    }
    EXPECT_EQ(results.size(), 1u) << variant;
  }
}

TEST(EmulatedNormBackward, RowsDoNotDependOnTheBatch) {
  for (const char* variant : {"rows_held", "rows_scalar"}) {
    const Result many = Check({true, DType::kBFloat16, 50, 128}, variant);
    const Result one = Check({true, DType::kBFloat16, 1, 128}, variant);
    EXPECT_TRUE(std::equal(one.grad_x.bytes().begin(), one.grad_x.bytes().end(),
                           many.grad_x.bytes().begin()));
  }
}

TEST(EmulatedNormBackward, NotFiniteRowsAreNanAndNoOthers) {
  for (const char* variant : {"rows_held", "rows_scalar"}) {
    Problem p{true, DType::kFloat32, 3, 128};
    Inputs in(p);
    in.x.Set(1, 5, NAN);
    Result got{Tensor(p.dtype, 3, 128), Tensor(p.params, 1, 128), Tensor(p.params, 1, 128)};
    ASSERT_TRUE(RunBackward(p, in, variant, InPlace::kNo, &got, nullptr).ok());
    for (int64_t c = 0; c < 128; ++c) {
      EXPECT_TRUE(std::isfinite(got.grad_x.Get(0, c)));
      EXPECT_TRUE(std::isnan(got.grad_x.Get(1, c)));
      EXPECT_TRUE(std::isfinite(got.grad_x.Get(2, c)));
      EXPECT_TRUE(std::isnan(got.grad_weight.Get(0, c)));
      EXPECT_TRUE(std::isfinite(got.grad_bias.Get(0, c)));
    }
  }
}

// Rows that a block does not have must not count, not even with eps 0, where they would be NaN.
TEST(EmulatedNormBackward, MissingRowsDoNotCount) {
  Tensor x(DType::kFloat32, 1, 8), grad(DType::kFloat32, 1, 8), out(DType::kFloat32, 1, 8);
  for (int64_t c = 0; c < 8; ++c) {
    x.Set(0, c, static_cast<float>(c + 1));
    grad.Set(0, c, 1.0f);
  }
  Tensor weight(DType::kFloat32, 1, 8);
  RmsNormBackwardArgs args;
  args.grad_x = out.view();
  args.grad_weight = weight.row_view();
  args.grad_y = grad.view();
  args.x = x.view();
  args.eps = 0.0f;
  LaunchContext ctx = emulated_testing::Context();
  std::vector<float> workspace(static_cast<size_t>(RmsNormBackwardWorkspaceBytes(ctx, args) / 4));
  ctx.workspace = workspace.data();
  ctx.workspace_bytes = static_cast<int64_t>(workspace.size()) * 4;
  ASSERT_TRUE(RmsNormBackward(ctx, args).ok());
  const double rstd = 1 / std::sqrt(204.0 / 8.0);
  for (int64_t c = 0; c < 8; ++c) {
    EXPECT_NEAR(weight.Get(0, c), static_cast<double>(c + 1) * rstd, 1e-6);
  }
}

TEST(EmulatedNormBackward, NoRowsGiveZeroSums) {
  Result got = Check({true, DType::kBFloat16, 0, 100, 0, DType::kBFloat16});
  for (int64_t c = 0; c < 100; ++c) {
    EXPECT_EQ(got.grad_weight.Get(0, c), 0.0f);
    EXPECT_EQ(got.grad_bias.Get(0, c), 0.0f);
  }
}

TEST(EmulatedNormBackward, AskForTheirWorkspace) {
  Tensor x(DType::kFloat32, 4, 8), out(DType::kFloat32, 4, 8), weight(DType::kFloat32, 1, 8);
  RmsNormBackwardArgs args;
  args.grad_x = out.view();
  args.grad_y = x.view();
  args.x = x.view();
  args.grad_weight = weight.row_view();
  const Status status = RmsNormBackward(emulated_testing::Context(), args);
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find("needs a workspace of"), std::string::npos) << status.message();
  args.grad_weight = MutableTensorView();
  EXPECT_TRUE(RmsNormBackward(emulated_testing::Context(), args).ok());
}

}  // namespace
}  // namespace kpt::emulated

// The norms' gradients: every instruction set, dtype and tail against double precision; sums over
// the rows; layouts, aliasing and refusals.
#include <cmath>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/norm/layer_norm_backward.h"
#include "kernels/norm/rms_norm_backward.h"
#include "tests/kernels/base/row_op_testing.h"

namespace kpt::cpu {
namespace {

using testing_util::At;
using testing_util::kFloats;
using testing_util::kWidths;
using testing_util::Levels;
using testing_util::Tensor;
using testing_util::Unit;

constexpr float kEps = 1e-5f;

// One call of either.
struct Problem {
  Problem(bool mean, DType dtype, int64_t rows, int64_t n, DType params, float center = 0.0f)
      : mean(mean),
        center(center),
        x(dtype, rows, n, 3),
        grad_y(dtype, rows, n, 1),
        more(dtype, rows, n, 2),
        grad_x(dtype, rows, n, 5),
        weight(params, 1, n),
        grad_weight(params, 1, n),
        grad_bias(params, 1, n) {
    std::mt19937 random(static_cast<unsigned>(rows * 10000 + n));
    x.Fill(&random, center, 1.0f);
    grad_y.Fill(&random, 0.0f, 1.0f);
    more.Fill(&random, 0.0f, 1.0f);
    weight.Fill(&random, 1.0f, 0.5f);
  }

  Status Run(const LaunchContext& ctx) {
    return Run(ctx, grad_x.view(), grad_y.view(), x.view(), more.view());
  }
  Status Run(const LaunchContext& ctx, MutableTensorView out, TensorView g, TensorView in,
             TensorView residual) {
    if (mean) {
      return LayerNormBackward(ctx, {out, grad_weight.row_view(), grad_bias.row_view(), g, in,
                                     weight.row_view(), weight.row_view(), residual, kEps});
    }
    return RmsNormBackward(ctx,
                           {out, grad_weight.row_view(), g, in, weight.row_view(), residual, kEps});
  }

  bool mean;
  float center;
  Tensor x, grad_y, more, grad_x, weight, grad_weight, grad_bias;
};

void ExpectExact(Problem* p, const std::string& where) {
  const int64_t n = p->x.cols();
  const double count = static_cast<double>(n);
  std::vector<double> weight_sum(static_cast<size_t>(n)), bias_sum(weight_sum);
  const double unit = Unit(p->x.dtype());
  for (int64_t r = 0; r < p->x.rows(); ++r) {
    double mean = 0, squares = 0, g_sum = 0, gn_sum = 0;
    for (int64_t c = 0; c < n && p->mean; ++c) mean += p->x.Get(r, c) / count;
    for (int64_t c = 0; c < n; ++c) squares += std::pow(p->x.Get(r, c) - mean, 2);
    const double rstd = 1 / std::sqrt(squares / count + static_cast<double>(kEps));
    const auto normal = [&](int64_t c) { return (p->x.Get(r, c) - mean) * rstd; };
    const auto scaled = [&](int64_t c) {
      return static_cast<double>(p->grad_y.Get(r, c)) * p->weight.Get(0, c);
    };
    for (int64_t c = 0; c < n; ++c) {
      if (p->mean) g_sum += scaled(c);
      gn_sum += scaled(c) * normal(c);
    }
    for (int64_t c = 0; c < n; ++c) {
      const double want =
          rstd * (scaled(c) - g_sum / count - normal(c) * gn_sum / count) + p->more.Get(r, c);
      // Rounding once, and float arithmetic within, before the terms cancel; x - mean carries the
      // error of a float mean.
      const double size = rstd * (std::fabs(scaled(c)) + std::fabs(g_sum / count) +
                                  (1 + std::fabs(normal(c))) * (1 + std::fabs(gn_sum) / count));
      const double float_mean = n == 1 ? 0 : std::fabs(mean) * rstd * size;
      const double allowed = 1.05 * unit * std::fabs(want) + 0x1p-24 * (16 * size + float_mean);
      ASSERT_NEAR(p->grad_x.Get(r, c), want, allowed) << where << " row " << r << " col " << c;
      weight_sum[static_cast<size_t>(c)] += p->grad_y.Get(r, c) * normal(c);
      bias_sum[static_cast<size_t>(c)] += p->grad_y.Get(r, c);
    }
  }
  const double rows = std::sqrt(static_cast<double>(p->x.rows()));
  const double param_unit = Unit(p->weight.dtype());
  // Of n: a float variance around the first element, and a float mean.
  const double normal_error = 0x1p-16 + 0x1p-23 * static_cast<double>(p->center);
  for (int64_t c = 0; c < n; ++c) {
    const double w = weight_sum[static_cast<size_t>(c)], b = bias_sum[static_cast<size_t>(c)];
    ASSERT_NEAR(p->grad_weight.Get(0, c), w, 1.05 * param_unit * std::fabs(w) + normal_error * rows)
        << where << " col " << c;
    if (!p->mean) continue;
    ASSERT_NEAR(p->grad_bias.Get(0, c), b, 1.05 * param_unit * std::fabs(b) + 0x1p-20 * rows)
        << where << " col " << c;
  }
}

TEST(NormBackward, AgreesWithDoubleAtEveryLevel) {
  for (bool mean : {false, true}) {
    for (Isa isa : Levels()) {
      for (DType dtype : kFloats) {
        for (int64_t n : kWidths) {
          for (DType params : {dtype, DType::kFloat32}) {
            Problem p(mean, dtype, 7, n, params);
            LaunchRecord record;
            ASSERT_TRUE(p.Run(At(isa, &record)).ok());
            const std::string where =
                std::string(record.variant) + " " + Name(dtype) + " " + std::to_string(n);
            EXPECT_TRUE(p.grad_x.GapsUntouched()) << where;
            ExpectExact(&p, where);
          }
        }
      }
    }
  }
}

TEST(NormBackward, LargeMeanDoesNotCancel) {
  for (Isa isa : Levels()) {
    for (DType dtype : {DType::kFloat32, DType::kBFloat16}) {
      Problem p(true, dtype, 3, 1000, dtype, 100.0f);
      ASSERT_TRUE(p.Run(At(isa)).ok());
      ExpectExact(&p, Name(dtype));
    }
  }
}

// One chunk, several, and chunks of several blocks; the same bits on any number of threads.
TEST(NormBackward, SumsOverRows) {
  for (int64_t rows : {0, 1, 31, 33, 200, 5000}) {
    for (bool mean : {false, true}) {
      Problem p(mean, DType::kFloat32, rows, 37, DType::kFloat32);
      LaunchContext ctx = At(DetectedIsa());
      ASSERT_TRUE(p.Run(ctx).ok());
      ExpectExact(&p, std::to_string(rows) + " rows");
      const std::vector<unsigned char> x = p.grad_x.bytes(), weight = p.grad_weight.bytes();
      ctx.num_threads = 3;
      ASSERT_TRUE(p.Run(ctx).ok());
      EXPECT_EQ(p.grad_x.bytes(), x);
      EXPECT_EQ(p.grad_weight.bytes(), weight);
    }
  }
}

// Rows are worked on a few at a time: a row's result must not show which ones.
TEST(NormBackward, RowsAreIndependent) {
  for (Isa isa : Levels()) {
    for (DType dtype : kFloats) {
      Problem p(true, dtype, 9, 100, dtype);
      ASSERT_TRUE(p.Run(At(isa)).ok());
      for (int64_t r = 0; r < 9; ++r) {
        Tensor one(dtype, 1, 100);
        MutableTensorView views[] = {p.grad_y.view(), p.x.view(), p.more.view()};
        for (MutableTensorView& v : views) {
          v.data = static_cast<char*>(v.mutable_data()) + r * v.strides[0] * ItemSize(dtype);
          v.shape[0] = 1;
        }
        ASSERT_TRUE(p.Run(At(isa), one.view(), views[0], views[1], views[2]).ok());
        for (int64_t c = 0; c < 100; ++c) {
          ASSERT_EQ(one.Get(0, c), p.grad_x.Get(r, c)) << Name(isa) << " " << Name(dtype);
        }
      }
    }
  }
}

TEST(NormBackward, InPlaceGivesTheSame) {
  for (DType dtype : kFloats) {
    Problem p(true, dtype, 6, 200, dtype);
    const LaunchContext ctx = At(DetectedIsa());
    ASSERT_TRUE(p.Run(ctx).ok());
    for (int place = 0; place < 3; ++place) {
      Tensor inputs[] = {p.grad_y, p.x, p.more};
      ASSERT_TRUE(
          p.Run(ctx, inputs[place].view(), inputs[0].view(), inputs[1].view(), inputs[2].view())
              .ok());
      for (int64_t r = 0; r < 6; ++r) {
        for (int64_t c = 0; c < 200; ++c) {
          ASSERT_EQ(inputs[place].Get(r, c), p.grad_x.Get(r, c)) << place;
        }
      }
    }
  }
}

TEST(NormBackward, ParametersAreOptional) {
  Problem p(true, DType::kFloat32, 5, 40, DType::kFloat32);
  const LaunchContext ctx = At(DetectedIsa());
  ASSERT_TRUE(p.Run(ctx).ok());
  const std::vector<unsigned char> bias = p.grad_bias.bytes();
  Tensor out(DType::kFloat32, 5, 40), only(DType::kFloat32, 1, 40), empty(DType::kFloat32, 1, 0);
  ASSERT_TRUE(LayerNormBackward(ctx, {out.view(),
                                      empty.row_view(),
                                      only.row_view(),
                                      p.grad_y.view(),
                                      p.x.view(),
                                      p.weight.row_view(),
                                      {},
                                      {},
                                      kEps})
                  .ok());
  EXPECT_EQ(only.bytes(), bias);
  for (int64_t r = 0; r < 5; ++r) {
    for (int64_t c = 0; c < 40; ++c) {
      EXPECT_NEAR(out.Get(r, c), p.grad_x.Get(r, c) - p.more.Get(r, c), 1e-5);
    }
  }
  // Without a weight it is 1.
  for (int64_t c = 0; c < 40; ++c) p.weight.Set(0, c, 1.0f);
  ASSERT_TRUE(p.Run(ctx, p.grad_x.view(), p.grad_y.view(), p.x.view(), {}).ok());
  ASSERT_TRUE(
      LayerNormBackward(ctx, {out.view(), {}, {}, p.grad_y.view(), p.x.view(), {}, {}, {}, kEps})
          .ok());
  for (int64_t r = 0; r < 5; ++r) {
    for (int64_t c = 0; c < 40; ++c) EXPECT_EQ(out.Get(r, c), p.grad_x.Get(r, c));
  }
}

void ExpectRefused(const Status& status, StatusCode code, const std::string& part) {
  EXPECT_EQ(status.code(), code) << status.message();
  EXPECT_NE(status.message().find(part), std::string::npos) << status.message();
}

TEST(NormBackward, Refusals) {
  const LaunchContext ctx = At(Isa::kBaseline);
  const auto bad = StatusCode::kInvalidArgument;
  Problem p(false, DType::kFloat32, 4, 8, DType::kFloat32);
  Tensor small(DType::kFloat32, 3, 8), half(DType::kFloat16, 4, 8), seven(DType::kFloat32, 1, 7);
  const TensorView g = p.grad_y.view(), x = p.x.view();
  const MutableTensorView out = p.grad_x.view();
  ExpectRefused(RmsNormBackward(ctx, {out, {}, small.view(), x, {}, {}, kEps}), bad,
                "rms_norm_backward: argument 'grad_y' must have shape [4, 8] like 'x', got [3, 8]");
  ExpectRefused(RmsNormBackward(ctx, {half.view(), {}, g, x, {}, {}, kEps}), StatusCode::kTypeError,
                "argument 'grad_x' must have dtype float32");
  ExpectRefused(RmsNormBackward(ctx, {out, {}, g, x, {}, small.view(), kEps}), bad,
                "argument 'grad_new_residual' must have shape");
  ExpectRefused(RmsNormBackward(ctx, {out, seven.row_view(), g, x, {}, {}, kEps}), bad,
                "argument 'grad_weight' must have shape [8], got [7]");
  ExpectRefused(RmsNormBackward(ctx, {out, half.row_view(), g, x, {}, {}, kEps}),
                StatusCode::kTypeError, "argument 'grad_weight' must have dtype float32");
  MutableTensorView row = p.grad_x.view();
  row.rank = 1;
  row.shape[0] = 8;
  row.strides[0] = 1;
  ExpectRefused(RmsNormBackward(ctx, {out, row, g, x, {}, {}, kEps}), bad,
                "argument 'grad_weight' overlaps 'grad_x'");
  MutableTensorView flat = out;
  flat.strides[0] = 0;
  ExpectRefused(RmsNormBackward(ctx, {flat, {}, g, x, {}, {}, kEps}), bad,
                "must not overlap itself");
}

}  // namespace
}  // namespace kpt::cpu

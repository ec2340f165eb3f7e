// The norms of a backend against double precision.
#ifndef KPT_TESTS_KERNELS_NORM_NORM_TESTING_H_
#define KPT_TESTS_KERNELS_NORM_NORM_TESTING_H_

#include <cmath>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/base/backend.h"
#include "kernels/norm/add_layer_norm.h"
#include "kernels/norm/add_rms_norm.h"
#include "kernels/norm/layer_norm.h"
#include "kernels/norm/rms_norm.h"
#include "tests/kernels/base/row_op_testing.h"

namespace kpt::norm_testing {

using testing_util::Tensor;
using testing_util::Unit;

// One call of any of the four.
struct Call {
  bool mean;
  bool add;
  float eps = 1e-5f;

  Status Run(const LaunchContext& ctx, MutableTensorView y, MutableTensorView new_residual,
             TensorView x, TensorView residual, TensorView weight, TensorView bias) const {
    if (mean && add) {
      return backend::AddLayerNorm(ctx, {y, new_residual, x, residual, weight, bias, eps});
    }
    if (mean) return backend::LayerNorm(ctx, {y, x, weight, bias, eps});
    if (add) return backend::AddRmsNorm(ctx, {y, new_residual, x, residual, weight, eps});
    return backend::RmsNorm(ctx, {y, x, weight, eps});
  }
};

inline constexpr Call kCalls[] = {{true, false}, {true, true}, {false, false}, {false, true}};

// Row r of the norm of `h`, in double.
inline std::vector<double> Exact(const Call& call, const Tensor& h, int64_t r, const Tensor* weight,
                                 const Tensor* bias) {
  const int64_t n = h.cols();
  double sum = 0, squares = 0;
  for (int64_t c = 0; c < n; ++c) sum += h.Get(r, c);
  const double mean = call.mean ? sum / static_cast<double>(n) : 0.0;
  for (int64_t c = 0; c < n; ++c) squares += (h.Get(r, c) - mean) * (h.Get(r, c) - mean);
  const double rstd =
      1 / std::sqrt(squares / static_cast<double>(n) + static_cast<double>(call.eps));
  std::vector<double> y(static_cast<size_t>(n));
  for (int64_t c = 0; c < n; ++c) {
    const double w = weight != nullptr ? weight->Get(0, c) : 1.0;
    const double b = bias != nullptr && call.mean ? bias->Get(0, c) : 0.0;
    y[static_cast<size_t>(c)] = (h.Get(r, c) - mean) * rstd * w + b;
  }
  return y;
}

inline void Check(const Call& call, LaunchContext ctx, DType dtype, int64_t n, float mean,
                  std::optional<DType> params, std::optional<float> first = std::nullopt) {
  std::mt19937 random(static_cast<unsigned>(n));
  constexpr int64_t kRows = 3;
  Tensor x(dtype, kRows, n, 3), residual(dtype, kRows, n, 1), y(dtype, kRows, n, 5);
  Tensor sum(dtype, kRows, n, 2);
  x.Fill(&random, mean, 1.0f);
  if (first) {
    for (int64_t r = 0; r < kRows; ++r) x.Set(r, 0, *first);
  }
  residual.Fill(&random, 0.0f, 1.0f);
  Tensor weight(params.value_or(dtype), 1, n), bias(params.value_or(dtype), 1, n);
  weight.Fill(&random, 1.0f, 0.5f);
  bias.Fill(&random, 0.0f, 0.5f);
  const TensorView none;
  LaunchRecord record;
  ctx.record = &record;
  const Status status =
      call.Run(ctx, y.view(), sum.view(), x.view(), residual.view(),
               params ? weight.row_view() : none, params ? bias.row_view() : none);
  ASSERT_TRUE(status.ok()) << status.message();
  const std::string where = std::string(record.variant) + " " + Name(dtype) + " " +
                            std::to_string(n) + " mean " + std::to_string(mean);
  EXPECT_TRUE(y.GapsUntouched() && sum.GapsUntouched()) << where;
  if (call.add) {
    Tensor one(dtype, 1, 1);
    for (int64_t r = 0; r < kRows; ++r) {
      for (int64_t c = 0; c < n; ++c) {
        one.Set(0, 0, x.Get(r, c) + residual.Get(r, c));
        ASSERT_EQ(sum.Get(r, c), one.Get(0, 0)) << where;
      }
    }
  }
  for (int64_t r = 0; r < kRows; ++r) {
    const std::vector<double> want =
        Exact(call, call.add ? sum : x, r, params ? &weight : nullptr, params ? &bias : nullptr);
    double most = 0;
    for (double w : want) most = std::fmax(most, std::fabs(w));
    for (int64_t c = 0; c < n; ++c) {
      const double w = want[static_cast<size_t>(c)];
      // Rounding once, and float arithmetic within: x - mean carries the error of a float mean.
      const double allowed = 1.05 * Unit(dtype) * std::fabs(w) + 8 * 0x1p-24 * (4 + most) +
                             (n == 1 ? 0.0 : 2 * 0x1p-24 * std::fabs(mean) / 100);
      ASSERT_NEAR(y.Get(r, c), w, allowed) << where << " row " << r << " col " << c;
    }
  }
}

}  // namespace kpt::norm_testing

#endif  // KPT_TESTS_KERNELS_NORM_NORM_TESTING_H_

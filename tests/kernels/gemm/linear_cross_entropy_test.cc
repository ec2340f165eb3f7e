// linear_cross_entropy and its backward against double precision: every instruction set and dtype,
// one block and several, gradients that are not asked for, refusals.
#include "kernels/gemm/linear_cross_entropy.h"

#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/gemm/linear_cross_entropy_backward.h"
#include "tests/kernels/base/row_op_testing.h"

namespace kpt::cpu {
namespace {

using testing_util::At;
using testing_util::kFloats;
using testing_util::Levels;
using testing_util::Tensor;
using testing_util::Unit;

constexpr int64_t kIgnored = -100;

struct Problem {
  Tensor hidden, weight;
  std::vector<int64_t> targets;
  CrossEntropyOptions options;
  Tensor loss, lse, grad_loss, grad_lse;

  Problem(DType dtype, int64_t rows, int64_t classes, int64_t dim)
      : hidden(dtype, rows, dim, 3),
        weight(dtype, classes, dim, 1),
        loss(DType::kFloat32, 1, rows),
        lse(DType::kFloat32, 1, rows),
        grad_loss(DType::kFloat32, 1, rows),
        grad_lse(DType::kFloat32, 1, rows) {
    std::mt19937 random(static_cast<unsigned>(rows + classes + dim));
    hidden.Fill(&random, 0.0f, 1.0f);
    weight.Fill(&random, 0.0f, 2.0f / std::sqrt(static_cast<float>(dim)));
    grad_loss.Fill(&random, 1.0f, 0.5f);
    grad_lse.Fill(&random, 0.0f, 0.5f);
    for (int64_t r = 0; r < rows; ++r) {
      targets.push_back(r % 5 == 3 ? kIgnored : (97 * r + classes - 1) % classes);
    }
    options.reduction = Reduction::kNone;
    options.label_smoothing = 0.125f;
    options.z_loss = 0.01f;
  }

  TensorView Target() const {
    TensorView v;
    v.data = targets.data();
    v.dtype = DType::kInt64;
    v.rank = 1;
    v.shape[0] = static_cast<int64_t>(targets.size());
    v.strides[0] = 1;
    return v;
  }

  LinearCrossEntropyArgs Forward() {
    LinearCrossEntropyArgs args;
    args.loss = loss.row_view();
    args.lse = lse.row_view();
    args.hidden = hidden.view();
    args.weight = weight.view();
    args.target = Target();
    args.options = options;
    return args;
  }

  LinearCrossEntropyBackwardArgs Backward() {
    LinearCrossEntropyBackwardArgs args;
    args.hidden = hidden.view();
    args.weight = weight.view();
    args.target = Target();
    args.lse = lse.row_view();
    args.grad_loss = grad_loss.row_view();
    args.grad_lse = grad_lse.row_view();
    args.options = options;
    return args;
  }
};

void Check(Isa isa, DType dtype, int64_t rows, int64_t classes, int64_t dim) {
  Problem p(dtype, rows, classes, dim);
  LaunchRecord record;
  ASSERT_TRUE(LinearCrossEntropy(At(isa, &record), p.Forward()).ok());
  Tensor grad_hidden(dtype, rows, dim, 2), grad_weight(dtype, classes, dim, 5);
  LinearCrossEntropyBackwardArgs args = p.Backward();
  args.grad_hidden = grad_hidden.view();
  args.grad_weight = grad_weight.view();
  ASSERT_TRUE(LinearCrossEntropyBackward(At(isa), args).ok());
  EXPECT_TRUE(grad_hidden.GapsUntouched() && grad_weight.GapsUntouched());
  const std::string where = std::string(record.variant) + " " + Name(dtype) + " " +
                            std::to_string(rows) + "x" + std::to_string(classes) + "x" +
                            std::to_string(dim);
  const double smoothing = static_cast<double>(p.options.label_smoothing);
  const double z = static_cast<double>(p.options.z_loss);
  const auto count = static_cast<double>(classes);
  std::vector<double> want_weight(static_cast<size_t>(classes * dim));
  double squares_hidden = 0.0, squares_weight = 0.0;  // of errors
  double size_hidden = 0.0, size_weight = 0.0;        // of values
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t target = p.targets[static_cast<size_t>(r)];
    std::vector<double> x(static_cast<size_t>(classes)), want(static_cast<size_t>(dim));
    double sum = 0.0, total = 0.0;
    for (int64_t c = 0; c < classes; ++c) {
      double dot = 0.0;
      for (int64_t d = 0; d < dim; ++d) {
        dot += static_cast<double>(p.hidden.Get(r, d)) * static_cast<double>(p.weight.Get(c, d));
      }
      x[static_cast<size_t>(c)] = dot;
      sum += std::exp(dot);
      total += dot;
    }
    const double lse = target == kIgnored ? 0.0 : std::log(sum);
    if (target == kIgnored) {
      EXPECT_EQ(p.loss.Get(0, r), 0.0f) << where;
      EXPECT_EQ(p.lse.Get(0, r), 0.0f) << where;
    } else {
      const double loss = lse - (1.0 - smoothing) * x[static_cast<size_t>(target)] -
                          smoothing / count * total + z * lse * lse;
      ASSERT_NEAR(p.lse.Get(0, r), lse, 1e-5) << where << " row " << r;
      ASSERT_NEAR(p.loss.Get(0, r), loss, 1e-5 * (1.0 + loss)) << where << " row " << r;
      const double g = static_cast<double>(p.grad_loss.Get(0, r));
      const double slope = g * (1.0 + 2.0 * z * lse) + static_cast<double>(p.grad_lse.Get(0, r));
      for (int64_t c = 0; c < classes; ++c) {
        const double grad = slope * std::exp(x[static_cast<size_t>(c)] - lse) -
                            g * smoothing / count - (c == target ? g * (1.0 - smoothing) : 0.0);
        for (int64_t d = 0; d < dim; ++d) {
          want[static_cast<size_t>(d)] += grad * static_cast<double>(p.weight.Get(c, d));
          want_weight[static_cast<size_t>(c * dim + d)] +=
              grad * static_cast<double>(p.hidden.Get(r, d));
        }
      }
    }
    for (int64_t d = 0; d < dim; ++d) {
      const double w = want[static_cast<size_t>(d)];
      squares_hidden += std::pow(static_cast<double>(grad_hidden.Get(r, d)) - w, 2);
      size_hidden += w * w;
    }
  }
  for (int64_t c = 0; c < classes; ++c) {
    for (int64_t d = 0; d < dim; ++d) {
      const double w = want_weight[static_cast<size_t>(c * dim + d)];
      squares_weight += std::pow(static_cast<double>(grad_weight.Get(c, d)) - w, 2);
      size_weight += w * w;
    }
  }
  // The results are rounded once, and before that the gradient of a logit where it is bfloat16.
  const double allowed = 2.0 * Unit(dtype) + 1e-5;
  EXPECT_LE(std::sqrt(squares_hidden), allowed * std::sqrt(size_hidden)) << where;
  EXPECT_LE(std::sqrt(squares_weight), allowed * std::sqrt(size_weight)) << where;
}

TEST(LinearCrossEntropy, AgreesWithDoubleAtEveryLevel) {
  for (Isa isa : Levels()) {
    for (DType dtype : kFloats) {
      Check(isa, dtype, 1, 1, 1);
      Check(isa, dtype, 7, 33, 5);
      Check(isa, dtype, 21, 1100, 64);   // three blocks of classes
      Check(isa, dtype, 1031, 530, 17);  // two of rows
    }
  }
}

TEST(LinearCrossEntropy, OneGradientIsThatOfBoth) {
  for (DType dtype : kFloats) {
    Problem p(dtype, 9, 600, 20);
    ASSERT_TRUE(LinearCrossEntropy(At(DetectedIsa()), p.Forward()).ok());
    Tensor hidden[2] = {Tensor(dtype, 9, 20), Tensor(dtype, 9, 20)};
    Tensor weight[2] = {Tensor(dtype, 600, 20), Tensor(dtype, 600, 20)};
    LinearCrossEntropyBackwardArgs args = p.Backward();
    args.grad_hidden = hidden[0].view();
    args.grad_weight = weight[0].view();
    ASSERT_TRUE(LinearCrossEntropyBackward(At(DetectedIsa()), args).ok());
    args = p.Backward();
    args.grad_hidden = hidden[1].view();
    ASSERT_TRUE(LinearCrossEntropyBackward(At(DetectedIsa()), args).ok());
    args = p.Backward();
    args.grad_weight = weight[1].view();
    ASSERT_TRUE(LinearCrossEntropyBackward(At(DetectedIsa()), args).ok());
    EXPECT_EQ(hidden[0].bytes(), hidden[1].bytes()) << Name(dtype);
    EXPECT_EQ(weight[0].bytes(), weight[1].bytes()) << Name(dtype);
  }
}

TEST(LinearCrossEntropy, RefusesBeforeWriting) {
  Problem p(DType::kFloat32, 6, 9, 4);
  const auto refused = [&](const LinearCrossEntropyArgs& args, StatusCode code, const char* what) {
    const std::vector<unsigned char> before = p.loss.bytes();
    const Status status = LinearCrossEntropy(At(DetectedIsa()), args);
    EXPECT_EQ(status.code(), code) << status.message();
    EXPECT_NE(status.message().find(what), std::string::npos) << status.message();
    EXPECT_EQ(p.loss.bytes(), before);
  };
  LinearCrossEntropyArgs args = p.Forward();
  args.weight.shape[1] = 3;
  refused(args, StatusCode::kInvalidArgument, "'weight' must have shape [V, 4]");
  args = p.Forward();
  args.weight.dtype = DType::kFloat16;
  refused(args, StatusCode::kTypeError, "'weight' must have dtype float32 like 'hidden'");
  args = p.Forward();
  args.weight.shape[0] = 5;  // fewer classes than the targets name
  refused(args, StatusCode::kInvalidArgument, "got 8 at position 0");
  args = p.Forward();
  args.lse = args.loss;
  refused(args, StatusCode::kInvalidArgument, "'lse' overlaps 'loss'");
  args = p.Forward();
  args.loss.data = p.weight.view().data;
  refused(args, StatusCode::kInvalidArgument, "'loss' overlaps 'weight'");
  LinearCrossEntropyBackwardArgs backward = p.Backward();
  backward.grad_hidden = p.hidden.view();
  const Status status = LinearCrossEntropyBackward(At(DetectedIsa()), backward);
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << status.message();
}

}  // namespace
}  // namespace kpt::cpu

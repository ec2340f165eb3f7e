// cross_entropy and its backward: every instruction set, dtype and tail against double precision;
// rows without a finite value, ignored rows, aliasing and refusals.
#include "kernels/loss/cross_entropy.h"

#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/loss/cross_entropy_backward.h"
#include "tests/kernels/base/row_op_testing.h"

namespace kpt::cpu {
namespace {

using testing_util::At;
using testing_util::kFloats;
using testing_util::kWidths;
using testing_util::Levels;
using testing_util::Tensor;
using testing_util::Unit;

constexpr int64_t kIgnored = -100;

TensorView ViewOf(const std::vector<int64_t>& targets) {
  TensorView v;
  v.data = targets.data();
  v.dtype = DType::kInt64;
  v.rank = 1;
  v.shape[0] = static_cast<int64_t>(targets.size());
  v.strides[0] = 1;
  return v;
}

MutableTensorView Scalar(Tensor* t) {
  MutableTensorView v = t->view();
  v.rank = 0;
  return v;
}

// Row r in double.
struct Exact {
  double lse = 0.0;
  double loss = 0.0;

  Exact(const Tensor& x, int64_t r, int64_t target, const CrossEntropyOptions& o) {
    const auto at = [&](int64_t c) { return static_cast<double>(x.Get(r, c)); };
    double most = at(0), sum = 0.0, total = 0.0;
    for (int64_t c = 0; c < x.cols(); ++c) most = std::fmax(most, at(c));
    for (int64_t c = 0; c < x.cols(); ++c) {
      sum += std::exp(at(c) - most);
      total += at(c);
    }
    const double smoothing = static_cast<double>(o.label_smoothing);
    lse = most + std::log(sum);
    loss = lse - (1.0 - smoothing) * at(target) -
           smoothing * total / static_cast<double>(x.cols()) +
           static_cast<double>(o.z_loss) * lse * lse;
  }
};

struct Problem {
  Tensor x;
  std::vector<int64_t> targets;
  CrossEntropyOptions options;

  Problem(DType dtype, int64_t rows, int64_t cols, float spread = 2.0f) : x(dtype, rows, cols, 3) {
    std::mt19937 random(static_cast<unsigned>(rows * 1000 + cols));
    x.Fill(&random, 0.0f, spread);
    for (int64_t r = 0; r < rows; ++r) targets.push_back((7 * r + cols - 1) % cols);
    options.reduction = Reduction::kNone;
  }

  void RunForward(Isa isa, Tensor* loss, Tensor* lse) {
    CrossEntropyArgs args;
    args.loss = loss->row_view();
    args.lse = lse->row_view();
    args.logits = x.view();
    args.target = ViewOf(targets);
    args.options = options;
    const Status status = CrossEntropy(At(isa), args);
    ASSERT_TRUE(status.ok()) << status.message();
  }

  CrossEntropyBackwardArgs BackwardArgs(Tensor* grad, Tensor* lse, Tensor* grad_loss,
                                        Tensor* grad_lse) {
    CrossEntropyBackwardArgs args;
    args.grad_logits = grad->view();
    args.logits = x.view();
    args.target = ViewOf(targets);
    args.lse = lse->row_view();
    args.grad_loss = grad_loss->row_view();
    args.grad_lse = grad_lse->row_view();
    args.options = options;
    return args;
  }
};

TEST(CrossEntropy, AgreesWithDoubleAtEveryLevel) {
  constexpr int64_t kRows = 3;
  for (Isa isa : Levels()) {
    for (DType dtype : kFloats) {
      for (int64_t n : kWidths) {
        Problem p(dtype, kRows, n);
        p.options.label_smoothing = n % 2 == 0 ? 0.0f : 0.125f;
        p.options.z_loss = n % 3 == 0 ? 0.0f : 0.01f;
        Tensor loss(DType::kFloat32, 1, kRows), lse(DType::kFloat32, 1, kRows);
        p.RunForward(isa, &loss, &lse);
        Tensor grad_loss(DType::kFloat32, 1, kRows), grad_lse(DType::kFloat32, 1, kRows);
        Tensor grad(dtype, kRows, n, 5);
        for (int64_t r = 0; r < kRows; ++r) {
          grad_loss.Set(0, r, 1.5f - static_cast<float>(r));
          grad_lse.Set(0, r, 0.25f * static_cast<float>(r));
        }
        const Status status =
            CrossEntropyBackward(At(isa), p.BackwardArgs(&grad, &lse, &grad_loss, &grad_lse));
        ASSERT_TRUE(status.ok()) << status.message();
        EXPECT_TRUE(grad.GapsUntouched());
        for (int64_t r = 0; r < kRows; ++r) {
          const std::string where = std::string(Name(dtype)) + " " + std::to_string(n) + " level " +
                                    std::to_string(static_cast<int>(isa)) + " row " +
                                    std::to_string(r);
          const int64_t target = p.targets[static_cast<size_t>(r)];
          const Exact exact(p.x, r, target, p.options);
          ASSERT_NEAR(lse.Get(0, r), exact.lse, 4e-7 * (1.0 + std::fabs(exact.lse))) << where;
          ASSERT_NEAR(loss.Get(0, r), exact.loss, 4e-7 * (1.0 + std::fabs(exact.loss))) << where;
          const double g = static_cast<double>(grad_loss.Get(0, r));
          const double smoothing = static_cast<double>(p.options.label_smoothing);
          const double slope = g * (1.0 + 2.0 * static_cast<double>(p.options.z_loss) * exact.lse) +
                               static_cast<double>(grad_lse.Get(0, r));
          for (int64_t c = 0; c < n; ++c) {
            const double want = slope * std::exp(static_cast<double>(p.x.Get(r, c)) - exact.lse) -
                                g * smoothing / static_cast<double>(n) -
                                (c == target ? g * (1.0 - smoothing) : 0.0);
            // bfloat16 and half results are rounded once; those of hardware may lose subnormals.
            ASSERT_NEAR(grad.Get(r, c), want, 1.05 * Unit(dtype) * std::fabs(want) + 2e-6)
                << where << " col " << c;
          }
        }
      }
    }
  }
}

// The largest logit comes last or first, and differs from the others by more than exp can span.
TEST(CrossEntropy, PiecesWithFarMaxima) {
  for (Isa isa : Levels()) {
    for (int64_t place : {int64_t{0}, int64_t{2047}, int64_t{2048}, int64_t{6143}}) {
      Problem p(DType::kFloat32, 1, 6144);
      for (int64_t c = 0; c < 6144; ++c) p.x.Set(0, c, -3e38f + static_cast<float>(c % 7) * 1e37f);
      p.x.Set(0, place, 2.5e38f);
      p.targets[0] = place;
      Tensor loss(DType::kFloat32, 1, 1), lse(DType::kFloat32, 1, 1);
      p.RunForward(isa, &loss, &lse);
      EXPECT_EQ(loss.Get(0, 0), 0.0f);
      EXPECT_EQ(lse.Get(0, 0), 2.5e38f);
    }
  }
}

TEST(CrossEntropy, RowsWithoutAnAnswerAreNan) {
  for (Isa isa : Levels()) {
    for (DType dtype : kFloats) {
      for (int64_t n : {1, 5, 64, 2100}) {
        for (float value : {INFINITY, NAN, -INFINITY}) {
          Problem p(dtype, 1, n);
          // One +inf or NaN, or nothing but -inf.
          if (value < 0.0f) {
            for (int64_t c = 0; c < n; ++c) p.x.Set(0, c, value);
          } else {
            p.x.Set(0, n / 2, value);
          }
          Tensor loss(DType::kFloat32, 1, 1), lse(DType::kFloat32, 1, 1);
          p.RunForward(isa, &loss, &lse);
          EXPECT_TRUE(std::isnan(loss.Get(0, 0))) << Name(dtype) << " " << n << " " << value;
        }
      }
    }
  }
}

TEST(CrossEntropy, HiddenClassesAreFine) {
  for (Isa isa : Levels()) {
    for (DType dtype : kFloats) {
      Problem p(dtype, 1, 4200);
      for (int64_t c = 0; c < 4200; ++c) p.x.Set(0, c, c == 4100 ? 1.0f : -INFINITY);
      p.targets[0] = 4100;
      Tensor loss(DType::kFloat32, 1, 1), lse(DType::kFloat32, 1, 1);
      p.RunForward(isa, &loss, &lse);
      EXPECT_EQ(loss.Get(0, 0), 0.0f);
      p.targets[0] = 0;
      p.RunForward(isa, &loss, &lse);
      EXPECT_EQ(loss.Get(0, 0), INFINITY);
    }
  }
}

TEST(CrossEntropy, IgnoredRowsAreNotLookedAt) {
  for (Isa isa : Levels()) {
    for (DType dtype : kFloats) {
      Problem p(dtype, 3, 40);
      p.targets[1] = kIgnored;
      for (int64_t c = 0; c < 40; ++c) p.x.Set(1, c, NAN);
      Tensor loss(DType::kFloat32, 1, 3), lse(DType::kFloat32, 1, 3), grad(dtype, 3, 40, 1);
      p.RunForward(isa, &loss, &lse);
      EXPECT_EQ(loss.Get(0, 1), 0.0f);
      EXPECT_EQ(lse.Get(0, 1), 0.0f);
      Tensor ones(DType::kFloat32, 1, 3);
      for (int64_t r = 0; r < 3; ++r) ones.Set(0, r, 1.0f);
      ASSERT_TRUE(CrossEntropyBackward(At(isa), p.BackwardArgs(&grad, &lse, &ones, &ones)).ok());
      for (int64_t c = 0; c < 40; ++c) EXPECT_EQ(grad.Get(1, c), 0.0f);
      Tensor mean(DType::kFloat32, 1, 1);
      CrossEntropyArgs args;
      args.loss = Scalar(&mean);
      args.logits = p.x.view();
      args.target = ViewOf(p.targets);
      ASSERT_TRUE(CrossEntropy(At(isa), args).ok());
      EXPECT_FLOAT_EQ(mean.Get(0, 0), (loss.Get(0, 0) + loss.Get(0, 2)) / 2.0f);
    }
  }
}

TEST(CrossEntropy, InPlaceAndPastTheCachesGiveTheSame) {
  for (Isa isa : Levels()) {
    for (DType dtype : kFloats) {
      Problem p(dtype, 70, 33001);  // from 4 MiB on, results are streamed
      Tensor loss(DType::kFloat32, 1, 70), lse(DType::kFloat32, 1, 70), grad(dtype, 70, 33001, 3);
      p.RunForward(isa, &loss, &lse);
      ASSERT_TRUE(CrossEntropyBackward(At(isa), p.BackwardArgs(&grad, &lse, &loss, &loss)).ok());
      ASSERT_TRUE(CrossEntropyBackward(At(isa), p.BackwardArgs(&p.x, &lse, &loss, &loss)).ok());
      for (int64_t r = 0; r < 70; r += 23) {
        for (int64_t c = 0; c < 33001; ++c) ASSERT_EQ(grad.Get(r, c), p.x.Get(r, c));
      }
    }
  }
}

TEST(CrossEntropy, RefusesBeforeWriting) {
  Problem p(DType::kFloat32, 3, 5);
  Tensor loss(DType::kFloat32, 1, 3);
  CrossEntropyArgs good;
  good.loss = loss.row_view();
  good.logits = p.x.view();
  good.target = ViewOf(p.targets);
  good.options = p.options;
  const auto refused = [&](const CrossEntropyArgs& args, StatusCode code, const char* what) {
    const std::vector<unsigned char> before = loss.bytes();
    const Status status = CrossEntropy(At(DetectedIsa()), args);
    EXPECT_EQ(status.code(), code) << status.message();
    EXPECT_NE(status.message().find(what), std::string::npos) << status.message();
    EXPECT_EQ(loss.bytes(), before);
  };
  ASSERT_TRUE(CrossEntropy(At(DetectedIsa()), good).ok());
  for (int64_t bad : {int64_t{5}, int64_t{-1}, int64_t{1} << 40}) {
    std::vector<int64_t> targets = {0, bad, 2};
    CrossEntropyArgs args = good;
    args.target = ViewOf(targets);
    refused(args, StatusCode::kInvalidArgument, (std::to_string(bad) + " at position 1").c_str());
  }
  CrossEntropyArgs args = good;
  args.loss = Scalar(&loss);
  refused(args, StatusCode::kInvalidArgument, "'loss' must have shape [3]");
  args = good;
  args.lse = good.loss;
  refused(args, StatusCode::kInvalidArgument, "'lse' overlaps 'loss'");
  args = good;
  args.loss.data = p.x.view().data;
  refused(args, StatusCode::kInvalidArgument, "'loss' overlaps 'logits'");
  args = good;
  args.target.dtype = DType::kInt32;
  refused(args, StatusCode::kTypeError, "'target' must have dtype int64");
  args = good;
  args.options.label_smoothing = NAN;
  refused(args, StatusCode::kInvalidArgument, "'label_smoothing' must be in [0, 1]");
  args = good;
  args.options.z_loss = INFINITY;
  refused(args, StatusCode::kInvalidArgument, "'z_loss' must be finite");
}

}  // namespace
}  // namespace kpt::cpu

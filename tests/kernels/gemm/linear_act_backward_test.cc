// linear_act_backward: every instruction set, variant, dtype and tail against double precision;
// what the bits may depend on; single gradients, refusals.
#include "kernels/gemm/linear_act_backward.h"

#include <cmath>
#include <limits>
#include <random>
#include <string>

#include "gtest/gtest.h"
#include "tests/kernels/gemm/gradients_testing.h"

namespace kpt::cpu {
namespace {

using testing_util::At;
using testing_util::Doubles;
using testing_util::ExactGradientOfSums;
using testing_util::GradientSlack;
using testing_util::kFloats;
using testing_util::kLinearActivations;
using testing_util::Levels;
using testing_util::Tensor;

struct Problem {
  Problem(DType type, int64_t rows, int64_t outputs, int64_t depth, ActivationKind activation)
      : dtype(type),
        kind(activation),
        grad_out(type, rows, outputs, 1),
        x(type, rows, depth, 3),
        weight(type, IsGated(activation) ? 2 * outputs : outputs, depth, 5),
        bias(type, 1, weight.rows()) {
    std::mt19937 random(static_cast<unsigned>(1000 * rows + 10 * outputs + depth));
    grad_out.Fill(&random, 0, 1);
    x.Fill(&random, 0, 1);
    weight.Fill(&random, 0, 1 / std::sqrt(1 + static_cast<float>(depth)));
    bias.Fill(&random, 0, 1);
  }

  DType dtype;
  ActivationKind kind;
  Tensor grad_out, x, weight, bias;
};

struct Gradients {
  explicit Gradients(const Problem& p)
      : x(p.dtype, p.x.rows(), p.x.cols(), 7),
        weight(p.dtype, p.weight.rows(), p.weight.cols(), 2),
        bias(p.dtype, 1, p.weight.rows()) {}

  LinearActBackwardArgs Args(Problem* p) {
    LinearActBackwardArgs args;
    args.grad_x = x.view();
    args.grad_weight = weight.view();
    args.grad_bias = bias.row_view();
    args.grad_out = p->grad_out.view();
    args.x = p->x.view();
    args.weight = p->weight.view();
    args.bias = p->bias.row_view();
    args.activation = p->kind;
    return args;
  }

  Tensor x, weight, bias;
};

void ExpectNear(const Tensor& got, const Doubles& want, double slack, const std::string& where) {
  EXPECT_TRUE(got.GapsUntouched()) << where;
  for (int64_t r = 0; r < want.rows; ++r) {
    for (int64_t c = 0; c < want.cols; ++c) {
      const double allowed =
          slack + 1.05 * testing_util::Unit(got.dtype()) * std::fabs(want.At(r, c));
      ASSERT_NEAR(got.Get(r, c), want.At(r, c), allowed) << where << " at " << r << ", " << c;
    }
  }
}

void Check(Isa isa, Problem* p, int threads = 1, const char* force = nullptr) {
  Gradients got(*p);
  LaunchRecord record;
  LaunchContext ctx = At(isa, &record);
  ctx.num_threads = threads;
  ctx.force_variant = force;
  const Status status = LinearActBackward(ctx, got.Args(p));
  ASSERT_TRUE(status.ok()) << status.message();
  const Doubles grad = ExactGradientOfSums(p->grad_out, p->x, p->weight, &p->bias, p->kind);
  const int64_t m = grad.rows, n = grad.cols, depth = p->x.cols();
  Doubles x(m, depth), weight(n, depth), bias(1, n);
  for (int64_t r = 0; r < m; ++r) {
    for (int64_t j = 0; j < n; ++j) {
      bias.At(0, j) += grad.At(r, j);
      for (int64_t k = 0; k < depth; ++k) {
        x.At(r, k) += grad.At(r, j) * static_cast<double>(p->weight.Get(j, k));
        weight.At(j, k) += grad.At(r, j) * static_cast<double>(p->x.Get(r, k));
      }
    }
  }
  const std::string where = std::string(record.variant == nullptr ? "-" : record.variant) + " " +
                            Name(p->dtype) + " " + std::to_string(m) + "x" + std::to_string(n) +
                            "x" + std::to_string(depth);
  ExpectNear(got.x, x, GradientSlack(p->dtype, n), where + " grad_x");
  ExpectNear(got.weight, weight, 2 * GradientSlack(p->dtype, m), where + " grad_weight");
  ExpectNear(got.bias, bias, 2 * GradientSlack(p->dtype, m), where + " grad_bias");
}

TEST(LinearActBackward, AgreesWithDoubleAtEveryLevel) {
  int turn = 0;
  for (Isa isa : Levels()) {
    for (DType dtype : kFloats) {
      for (int64_t m : {0, 1, 2, 5, 33, 70}) {
        for (int64_t n : {1, 7, 17, 65, 100}) {
          for (int64_t k : {1, 2, 15, 33, 130}) {
            Problem p(dtype, m, n, k, kLinearActivations[++turn % 7]);
            Check(isa, &p, 1 + turn % 3);
          }
        }
      }
    }
  }
}

TEST(LinearActBackward, EmptySizes) {
  for (DType dtype : kFloats) {
    for (ActivationKind kind : kLinearActivations) {
      for (int64_t n : {0, 5}) {
        for (int64_t k : {0, 6}) {
          Problem p(dtype, 4, n, k, kind);
          Check(Levels().back(), &p);
        }
      }
    }
  }
}

// More rows than one chunk of a product takes, and more outputs than a pass of the transpose.
TEST(LinearActBackward, ManyRowsAndOutputs) {
  for (Isa isa : Levels()) {
    for (DType dtype : kFloats) {
      Problem rows(dtype, 4501, 9, 18, ActivationKind::kNone);
      Check(isa, &rows, 2);
      Problem outputs(dtype, 9, 600, 17, ActivationKind::kSwiglu);
      Check(isa, &outputs, 5);
    }
  }
}

TEST(LinearActBackward, EveryVariantCanBeForced) {
  for (const VariantInfo& variant : LinearActBackwardVariants()) {
    if (variant.isa > DetectedIsa()) continue;
    Problem p(DType::kBFloat16, 50, 70, 90, ActivationKind::kGelu);
    Check(variant.isa, &p, 2, variant.name);
  }
}

TEST(LinearActBackward, BitsDoNotDependOnThreadsNorRowsOnOthers) {
  for (Isa isa : Levels()) {
    for (DType dtype : kFloats) {
      Problem p(dtype, 300, 130, 200, ActivationKind::kSilu);
      Gradients first(p);
      ASSERT_TRUE(LinearActBackward(At(isa), first.Args(&p)).ok());
      for (int threads : {2, 3, 16}) {
        Gradients got(p);
        LaunchContext ctx = At(isa);
        ctx.num_threads = threads;
        ASSERT_TRUE(LinearActBackward(ctx, got.Args(&p)).ok());
        EXPECT_EQ(got.x.bytes(), first.x.bytes()) << Name(isa) << threads;
        EXPECT_EQ(got.weight.bytes(), first.weight.bytes()) << Name(isa) << threads;
        EXPECT_EQ(got.bias.bytes(), first.bias.bytes()) << Name(isa) << threads;
      }
      for (int64_t r = 1; r < 300; ++r) p.grad_out.Set(r, 3, std::nanf(""));
      Gradients got(p);
      ASSERT_TRUE(LinearActBackward(At(isa), got.Args(&p)).ok());
      for (int64_t k = 0; k < 200; ++k) {
        EXPECT_EQ(got.x.Get(0, k), first.x.Get(0, k));
        EXPECT_TRUE(std::isnan(got.x.Get(299, k)));
        EXPECT_TRUE(std::isnan(got.weight.Get(3, k)));
        EXPECT_EQ(got.weight.Get(4, k), first.weight.Get(4, k));
      }
    }
  }
}

TEST(LinearActBackward, OnlyWhatIsGiven) {
  Problem p(DType::kFloat32, 20, 30, 40, ActivationKind::kRelu);
  Gradients all(p), got(p);
  ASSERT_TRUE(LinearActBackward(At(Isa::kBaseline), all.Args(&p)).ok());
  LinearActBackwardArgs args = got.Args(&p);
  args.grad_x = MutableTensorView();
  args.grad_bias = MutableTensorView();
  ASSERT_TRUE(LinearActBackward(At(Isa::kBaseline), args).ok());
  EXPECT_EQ(got.weight.bytes(), all.weight.bytes());
  args = got.Args(&p);
  args.grad_weight = MutableTensorView();
  ASSERT_TRUE(LinearActBackward(At(Isa::kBaseline), args).ok());
  EXPECT_EQ(got.x.bytes(), all.x.bytes());
  EXPECT_EQ(got.bias.bytes(), all.bias.bytes());
}

TEST(LinearActBackward, RefusesWhatDoesNotFit) {
  Problem p(DType::kFloat32, 4, 6, 5, ActivationKind::kNone);
  Gradients g(p);
  const auto code = [](const LinearActBackwardArgs& args) {
    return LinearActBackward(At(Isa::kBaseline), args).code();
  };
  LinearActBackwardArgs args = g.Args(&p);
  args.grad_out.shape[1] = 5;
  EXPECT_EQ(code(args), StatusCode::kInvalidArgument);
  args = g.Args(&p);
  args.grad_weight.shape[0] = 5;
  EXPECT_EQ(code(args), StatusCode::kInvalidArgument);
  args = g.Args(&p);
  args.x.dtype = DType::kFloat16;
  EXPECT_EQ(code(args), StatusCode::kTypeError);
  args = g.Args(&p);
  args.activation = ActivationKind::kTanh;
  EXPECT_EQ(code(args), StatusCode::kInvalidArgument);
  args = g.Args(&p);
  args.grad_x.data = p.x.view().data;
  EXPECT_EQ(code(args), StatusCode::kInvalidArgument);
  args = g.Args(&p);
  args.grad_x.strides[0] = 0;
  EXPECT_EQ(code(args), StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace kpt::cpu

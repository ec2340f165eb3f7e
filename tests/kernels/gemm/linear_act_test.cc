// linear_act: every instruction set, variant, dtype and tail against double precision; what a row's
// bits may depend on; layouts, special values, refusals.
#include "kernels/gemm/linear_act.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/kernels/gemm/gemm_testing.h"

namespace kpt::cpu {
namespace {

using testing_util::At;
using testing_util::ExactLinear;
using testing_util::ExactOutput;
using testing_util::kFloats;
using testing_util::kLinearActivations;
using testing_util::Levels;
using testing_util::Tensor;
using testing_util::Unit;

// x [m, k], a weight of n outputs and a bias, all with gaps between rows.
struct Problem {
  Problem(DType type, int64_t rows, int64_t outputs, int64_t depth, ActivationKind activation)
      : dtype(type),
        m(rows),
        n(outputs),
        k(depth),
        kind(activation),
        x(type, rows, depth, 3),
        weight(type, IsGated(activation) ? 2 * outputs : outputs, depth, 5),
        bias(type, 1, weight.rows()) {
    std::mt19937 random(static_cast<unsigned>(1000 * rows + 10 * outputs + depth));
    x.Fill(&random, 0, 1);
    weight.Fill(&random, 0, 1 / std::sqrt(1 + static_cast<float>(depth)));
    bias.Fill(&random, 0, 1);
  }
  LinearActArgs Args(Tensor* y, bool with_bias = true) {
    LinearActArgs args;
    args.out = y->view();
    args.x = x.view();
    args.weight = weight.view();
    if (with_bias) args.bias = bias.row_view();
    args.activation = kind;
    return args;
  }
  Tensor Output() const { return Tensor(dtype, m, n, 7); }

  DType dtype;
  int64_t m, n, k;
  ActivationKind kind;
  Tensor x, weight, bias;
};

void ExpectExact(const Problem& p, const Tensor& y, bool with_bias, const std::string& where) {
  EXPECT_TRUE(y.GapsUntouched()) << where;
  const auto weight = [&](int64_t row, int64_t k) -> double { return p.weight.Get(row, k); };
  for (int64_t m = 0; m < p.m; ++m) {
    for (int64_t n = 0; n < p.n; ++n) {
      const ExactOutput want =
          ExactLinear(p.x, weight, with_bias ? &p.bias : nullptr, p.kind, m, n, p.n);
      const double allowed = 1.05 * Unit(p.dtype) * std::fabs(want.value) + want.slack + 0x1p-24;
      ASSERT_NEAR(y.Get(m, n), want.value, allowed) << where << " row " << m << " output " << n;
    }
  }
}

std::string Describe(const Problem& p, const char* variant) {
  return std::string(variant) + " " + Name(p.dtype) + " " + std::to_string(p.m) + "x" +
         std::to_string(p.n) + "x" + std::to_string(p.k);
}

void Check(Isa isa, Problem* p, bool with_bias, int threads = 1, const char* force = nullptr) {
  Tensor y = p->Output();
  LaunchRecord record;
  LaunchContext ctx = At(isa, &record);
  ctx.num_threads = threads;
  ctx.force_variant = force;
  const Status status = LinearAct(ctx, p->Args(&y, with_bias));
  ASSERT_TRUE(status.ok()) << status.message();
  ExpectExact(*p, y, with_bias, Describe(*p, record.variant == nullptr ? "-" : record.variant));
}

TEST(LinearAct, AgreesWithDoubleAtEveryLevel) {
  int turn = 0;
  for (Isa isa : Levels()) {
    for (DType dtype : kFloats) {
      for (int64_t m : {1, 2, 3, 5, 7, 16, 17, 33, 40}) {
        for (int64_t n : {1, 7, 16, 17, 65}) {
          for (int64_t k : {0, 1, 2, 15, 31, 33, 64, 130, 515}) {
            ++turn;
            Problem p(dtype, m, n, k, kLinearActivations[turn % 7]);
            Check(isa, &p, turn % 3 != 0);
          }
        }
      }
    }
  }
}

TEST(LinearAct, EveryActivation) {
  for (Isa isa : Levels()) {
    for (DType dtype : kFloats) {
      for (ActivationKind kind : kLinearActivations) {
        for (int64_t m : {4, 50}) {
          Problem p(dtype, m, 37, 66, kind);
          Check(isa, &p, true);
          Check(isa, &p, false, 3);
        }
      }
    }
  }
}

// K of several chunks, with a last one that is short or lies within a dword.
TEST(LinearAct, LongK) {
  for (Isa isa : Levels()) {
    for (DType dtype : kFloats) {
      for (int64_t k : {2049, 4095, 4097, 8200}) {
        for (int64_t m : {2, 45}) {
          Problem p(dtype, m, 20, k, ActivationKind::kNone);
          Check(isa, &p, true, 2);
        }
      }
    }
  }
}

TEST(LinearAct, EveryVariantCanBeForced) {
  for (const VariantInfo& variant : LinearActVariants()) {
    if (variant.isa > DetectedIsa()) continue;
    int served = 0;
    for (DType dtype : kFloats) {
      for (int64_t m : {6, 100}) {
        Problem p(dtype, m, 70, 90, ActivationKind::kGelu);
        Tensor y = p.Output();
        LaunchContext ctx = At(variant.isa);
        ctx.force_variant = variant.name;
        if (LinearAct(ctx, p.Args(&y)).code() == StatusCode::kUnimplemented) continue;
        ++served;
        Check(variant.isa, &p, true, 2, variant.name);
      }
    }
    EXPECT_GT(served, 0) << variant.name;
  }
}

// Bits do not depend on the thread count, on the rows around a row, or on repetition.
TEST(LinearAct, BitsDependOnTheRowAlone) {
  for (Isa isa : Levels()) {
    for (DType dtype : kFloats) {
      for (int64_t m : {5, 47}) {
        Problem p(dtype, m, 130, 300, ActivationKind::kSilu);
        Tensor first = p.Output();
        ASSERT_TRUE(LinearAct(At(isa), p.Args(&first)).ok());
        for (int threads : {1, 2, 3, 7}) {
          Tensor y = p.Output();
          LaunchContext ctx = At(isa);
          ctx.num_threads = threads;
          ASSERT_TRUE(LinearAct(ctx, p.Args(&y)).ok());
          EXPECT_EQ(y.bytes(), first.bytes()) << Name(isa) << " " << threads;
        }
        for (int64_t r = 1; r < m; ++r) {
          for (int64_t k = 0; k < p.k; ++k) p.x.Set(r, k, std::nanf(""));
        }
        Tensor y = p.Output();
        ASSERT_TRUE(LinearAct(At(isa), p.Args(&y)).ok());
        for (int64_t n = 0; n < p.n; ++n) {
          EXPECT_EQ(y.Get(0, n), first.Get(0, n));
          EXPECT_TRUE(std::isnan(y.Get(m - 1, n)));
        }
      }
    }
  }
}

TEST(LinearAct, SpecialValues) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  for (Isa isa : Levels()) {
    for (DType dtype : kFloats) {
      for (int64_t m : {4, 40}) {
        Problem p(dtype, m, 18, 35, ActivationKind::kNone);
        p.x.Set(0, 34, kInf);
        p.x.Set(1, 3, -kInf);
        p.x.Set(2, 7, std::nanf(""));
        Tensor y = p.Output();
        ASSERT_TRUE(LinearAct(At(isa), p.Args(&y)).ok());
        for (int64_t n = 0; n < p.n; ++n) {
          EXPECT_EQ(y.Get(0, n), p.weight.Get(n, 34) > 0 ? kInf : -kInf);
          EXPECT_EQ(y.Get(1, n), p.weight.Get(n, 3) > 0 ? -kInf : kInf);
          EXPECT_TRUE(std::isnan(y.Get(2, n)));
          EXPECT_TRUE(std::isfinite(y.Get(3, n)));
        }
      }
    }
  }
}

// Products of float32 and float16 keep subnormal numbers; bf16 pairs may take them as zero.
TEST(LinearAct, Subnormals) {
  for (Isa isa : Levels()) {
    for (DType dtype : {DType::kFloat32, DType::kFloat16}) {
      for (int64_t m : {1, 40}) {
        const float tiny = dtype == DType::kFloat32 ? 0x1p-140f : 0x1p-24f;
        Tensor x(dtype, m, 2), weight(dtype, 1, 2), y(dtype, m, 1);
        for (int64_t r = 0; r < m; ++r) {
          x.Set(r, 0, tiny);
          x.Set(r, 1, 0);
        }
        weight.Set(0, 0, 4);
        weight.Set(0, 1, 1);
        LinearActArgs args;
        args.out = y.view();
        args.x = x.view();
        args.weight = weight.view();
        ASSERT_TRUE(LinearAct(At(isa), args).ok());
        for (int64_t r = 0; r < m; ++r) EXPECT_EQ(y.Get(r, 0), 4 * tiny) << Name(isa);
      }
    }
  }
}

TEST(LinearAct, RowsOfAnyStride) {
  for (Isa isa : Levels()) {
    for (DType dtype : kFloats) {
      // Every row the same: stride 0.
      Problem p(dtype, 40, 33, 50, ActivationKind::kGeluTanh);
      Tensor y = p.Output(), one = p.Output();
      LinearActArgs args = p.Args(&y);
      args.x.strides[0] = 0;
      ASSERT_TRUE(LinearAct(At(isa), args).ok());
      for (int64_t m = 1; m < p.m; ++m) {
        for (int64_t n = 0; n < p.n; ++n) EXPECT_EQ(y.Get(m, n), y.Get(0, n));
      }
      // [5, 8, K] whose leading dimensions are swapped: no single stride walks the rows.
      args = p.Args(&one);
      TensorView& x = args.x;
      x.rank = 3;
      x.shape[0] = 5;
      x.shape[1] = 8;
      x.shape[2] = p.k;
      x.strides[0] = p.x.view().stride(0);
      x.strides[1] = 5 * x.strides[0];
      x.strides[2] = 1;
      MutableTensorView& out = args.out;
      out.rank = 3;
      out.shape[0] = 5;
      out.shape[1] = 8;
      out.shape[2] = p.n;
      out.strides[1] = one.view().stride(0);
      out.strides[0] = 8 * out.strides[1];
      out.strides[2] = 1;
      ASSERT_TRUE(LinearAct(At(isa), args).ok());
      Tensor plain = p.Output();
      ASSERT_TRUE(LinearAct(At(isa), p.Args(&plain)).ok());
      for (int64_t a = 0; a < 5; ++a) {
        for (int64_t b = 0; b < 8; ++b) {
          for (int64_t n = 0; n < p.n; ++n) {
            ASSERT_EQ(one.Get(8 * a + b, n), plain.Get(a + 5 * b, n)) << Name(isa);
          }
        }
      }
    }
  }
}

TEST(LinearAct, EmptyIsFine) {
  for (Isa isa : Levels()) {
    Problem none(DType::kFloat32, 0, 5, 5, ActivationKind::kNone);
    Check(isa, &none, true);
    Problem thin(DType::kFloat32, 5, 0, 5, ActivationKind::kSwiglu);
    Check(isa, &thin, true);
  }
}

void ExpectRefused(const LinearActArgs& args, StatusCode code, const std::string& part) {
  const Status status = LinearAct(At(Isa::kBaseline), args);
  EXPECT_EQ(status.code(), code) << status.message();
  EXPECT_NE(status.message().find(part), std::string::npos) << status.message();
}

TEST(LinearAct, Refusals) {
  Problem p(DType::kFloat32, 4, 6, 8, ActivationKind::kNone);
  Tensor y = p.Output(), small(DType::kFloat32, 4, 5), half(DType::kFloat16, 6, 8);
  const LinearActArgs good = p.Args(&y);
  const auto bad = StatusCode::kInvalidArgument;
  LinearActArgs a = good;
  a.out = small.view();
  ExpectRefused(a, bad, "linear_act: argument 'out' must have the shape of 'x'");
  a = good;
  a.weight = half.view();
  ExpectRefused(a, StatusCode::kTypeError, "argument 'weight' must have dtype float32");
  a = good;
  a.weight.shape[1] = 7;
  ExpectRefused(a, bad, "argument 'weight' must have shape [N, 8], got [6, 7]");
  a = good;
  a.bias.shape[0] = 5;
  ExpectRefused(a, bad, "argument 'bias' must have shape [6], got [5]");
  a = good;
  a.activation = ActivationKind::kTanh;
  ExpectRefused(a, bad, "argument 'activation' must be one of");
  a = good;
  a.activation = ActivationKind::kSwiglu;
  a.weight.shape[0] = 5;
  ExpectRefused(a, bad, "even number of rows");
  a = good;
  a.x.strides[1] = 2;
  ExpectRefused(a, bad, "dense last dimension");
  a = good;
  a.x.rank = 0;
  ExpectRefused(a, bad, "at least 1 dimension");
  a = good;
  a.x.dtype = DType::kInt32;
  ExpectRefused(a, StatusCode::kTypeError, "int32");
  a = good;
  a.out.strides[0] = 0;
  ExpectRefused(a, bad, "argument 'out' must not overlap itself");
  a = good;
  a.out.data = a.weight.data;
  ExpectRefused(a, bad, "argument 'out' overlaps 'weight' in memory");
}

}  // namespace
}  // namespace kpt::cpu

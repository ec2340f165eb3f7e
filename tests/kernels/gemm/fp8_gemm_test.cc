// fp8_gemm: every code, every instruction set and variant against double precision, what a row's
// bits may depend on, refusals.
#include "kernels/gemm/fp8_gemm.h"

#include <cmath>
#include <random>
#include <string>

#include "gtest/gtest.h"
#include "tests/kernels/gemm/byte_gemm_testing.h"
#include "tests/kernels/gemm/gemm_testing.h"

namespace kpt::cpu {
namespace {

using testing_util::At;
using testing_util::ByteMatrix;
using testing_util::ExactActivation;
using testing_util::FastSlack;
using testing_util::kFloats;
using testing_util::kLinearActivations;
using testing_util::Levels;
using testing_util::Scales;
using testing_util::Tensor;
using testing_util::Unit;

constexpr DType kFormats[] = {DType::kFloat8E4M3FN, DType::kFloat8E5M2};

struct Problem {
  Problem(int64_t rows, int64_t outputs, int64_t depth, int a_rank, int b_rank,
          ActivationKind activation, DType a_type, DType b_type, DType out)
      : m(rows),
        n(outputs),
        k(depth),
        kind(activation),
        out_dtype(out),
        columns(IsGated(activation) ? 2 * outputs : outputs),
        random(static_cast<unsigned>(1000 * rows + 10 * outputs + depth)),
        a(a_type, rows, depth, 3),
        b(b_type, columns, depth, 1),
        scale_a(a_rank, rows, depth, 1, &random),
        scale_b(b_rank, columns, depth, kFp8Block, &random),
        bias(out, 1, columns) {
    a.Fill(&random);
    b.Fill(&random);
    bias.Fill(&random, 0, 1);
  }
  Fp8GemmArgs Args(Tensor* y) {
    Fp8GemmArgs args;
    args.out = y->view();
    args.a = a.view();
    args.b = b.view();
    args.scale_a = scale_a.view();
    args.scale_b = scale_b.view();
    args.bias = bias.row_view();
    args.activation = kind;
    return args;
  }
  // The sum of column j, and the sum of its terms' magnitudes.
  void Sum(int64_t row, int64_t j, double* value, double* size) const {
    *value = bias.Get(0, j);
    *size = std::fabs(*value);
    for (int64_t i = 0; i < k; ++i) {
      const double term =
          a.Value(row, i) * scale_a.Value(row, i) * b.Value(j, i) * scale_b.Value(j, i);
      *value += term;
      *size += std::fabs(term);
    }
  }

  int64_t m, n, k;
  ActivationKind kind;
  DType out_dtype;
  int64_t columns;
  std::mt19937 random;
  ByteMatrix a, b;
  Scales scale_a, scale_b;
  Tensor bias;
};

void Check(Isa isa, Problem* p, int threads = 1, const char* force = nullptr) {
  Tensor y(p->out_dtype, p->m, p->n, 5);
  LaunchRecord record;
  LaunchContext ctx = At(isa, &record);
  ctx.num_threads = threads;
  ctx.force_variant = force;
  const Status status = Fp8Gemm(ctx, p->Args(&y));
  ASSERT_TRUE(status.ok()) << status.message();
  const std::string where = std::string(record.variant) + " " + std::to_string(p->m) + "x" +
                            std::to_string(p->n) + "x" + std::to_string(p->k);
  EXPECT_TRUE(y.GapsUntouched()) << where;
  const double units = 0x1p-24 * (8 + std::sqrt(static_cast<double>(p->k)));
  for (int64_t m = 0; m < p->m; ++m) {
    for (int64_t n = 0; n < p->n; ++n) {
      double sum, size, up = 1, up_size = 0;
      p->Sum(m, n, &sum, &size);
      if (IsGated(p->kind)) p->Sum(m, p->n + n, &up, &up_size);
      const double act = ExactActivation(p->kind, sum);
      const double slack = units * (1.2 * size + std::fabs(act));
      const double fast = FastSlack(p->out_dtype, p->kind, act);
      const double want = act * up;
      const double allowed = 1.05 * Unit(p->out_dtype) * std::fabs(want) +
                             (slack + 5 * fast) * std::fabs(up) + units * up_size * std::fabs(act) +
                             0x1p-24;
      ASSERT_NEAR(y.Get(m, n), want, allowed) << where << " row " << m << " output " << n;
    }
  }
}

TEST(Fp8Gemm, AgreesWithDoubleAtEveryLevel) {
  int turn = 0;
  for (int64_t n : {1, 17, 65, 130}) {
    for (int64_t k : {0, 1, 63, 64, 130, 515, 1100}) {
      for (int64_t m : {1, 4, 5, 11, 17}) {
        for (int scales = 0; scales < 9; scales += 1 + turn % 3) {
          ++turn;
          Problem p(m, n, k, scales / 3, scales % 3, kLinearActivations[turn % 7],
                    kFormats[turn % 2], kFormats[turn / 2 % 2], kFloats[turn % 3]);
          for (Isa isa : Levels()) Check(isa, &p);
        }
      }
    }
  }
}

TEST(Fp8Gemm, ManyRowsAndColumns) {
  for (int rank : {1, 2}) {
    Problem tall(2100, 70, 520, rank, rank, ActivationKind::kNone, kFormats[0], kFormats[1],
                 DType::kFloat32);
    Problem wide(40, 1000, 130, rank, rank, ActivationKind::kSwiglu, kFormats[0], kFormats[0],
                 DType::kBFloat16);
    for (Isa isa : Levels()) {
      Check(isa, &tall, 2);
      Check(isa, &wide, 3);
    }
  }
}

TEST(Fp8Gemm, EveryVariantCanBeForced) {
  for (const VariantInfo& variant : Fp8GemmVariants()) {
    if (variant.isa > DetectedIsa()) continue;
    Problem p(3, 70, 200, 2, 2, ActivationKind::kGelu, kFormats[0], kFormats[1], DType::kFloat16);
    Check(variant.isa, &p, 2, variant.name);
  }
}

// Every code of both factors, alone, comes out exactly; NaN and infinity too.
TEST(Fp8Gemm, EveryCodeIsExact) {
  const float one = 1.0f;
  TensorView scale;
  scale.data = &one;
  scale.rank = 0;
  for (DType format : kFormats) {
    for (const bool in_a : {true, false}) {
      ByteMatrix codes(format, 256, 1);
      ByteMatrix ones(DType::kFloat8E5M2, 1, 1);  // 0x3c is 1
      for (int64_t i = 0; i < 256; ++i) codes.At(i, 0) = static_cast<uint8_t>(i);
      for (Isa isa : Levels()) {
        Tensor y(DType::kFloat32, in_a ? 256 : 1, in_a ? 1 : 256);
        Fp8GemmArgs args;
        args.out = y.view();
        args.a = in_a ? codes.view() : ones.view();
        args.b = in_a ? ones.view() : codes.view();
        args.scale_a = args.scale_b = scale;
        ASSERT_TRUE(Fp8Gemm(At(isa), args).ok());
        for (int64_t i = 0; i < 256; ++i) {
          const float got = in_a ? y.Get(i, 0) : y.Get(0, i);
          const double want = codes.Value(i, 0);
          if (std::isnan(want)) {
            EXPECT_TRUE(std::isnan(got)) << Name(isa) << " " << i;
          } else {
            EXPECT_EQ(got, want) << Name(isa) << " " << Name(format) << " " << i;
          }
        }
      }
    }
  }
}

// Some rows of many, in both kinds of variants.
struct Part {
  int64_t all, first, some;
};

TEST(Fp8Gemm, ARowDependsOnNothingElse) {
  for (const Part& part : {Part{61, 40, 20}, Part{16, 9, 3}}) {
    for (int rank : {1, 2}) {
      if (rank == 2 && part.some < 5) continue;  // sixteen rows are then many
      Problem p(part.all, 200, 4500, rank, rank, ActivationKind::kNone, kFormats[0], kFormats[0],
                DType::kFloat32);
      for (Isa isa : Levels()) {
        Tensor all(DType::kFloat32, p.m, p.n), some(DType::kFloat32, part.some, p.n);
        LaunchContext ctx = At(isa);
        ASSERT_TRUE(Fp8Gemm(ctx, p.Args(&all)).ok());
        ctx.num_threads = 3;
        Fp8GemmArgs args = p.Args(&some);
        args.a.data = p.a.bytes.data() + part.first * p.a.stride;
        args.a.shape[0] = part.some;
        args.scale_a.data = p.scale_a.values.data() + part.first;
        args.scale_a.shape[0] = part.some;
        ASSERT_TRUE(Fp8Gemm(ctx, args).ok());
        for (int64_t r = 0; r < part.some; ++r) {
          for (int64_t c = 0; c < p.n; ++c) {
            ASSERT_EQ(some.Get(r, c), all.Get(part.first + r, c))
                << Name(isa) << " " << r << " " << c;
          }
        }
      }
    }
  }
}

TEST(Fp8Gemm, Refusals) {
  Problem p(3, 8, 200, 1, 1, ActivationKind::kNone, kFormats[0], kFormats[0], DType::kFloat32);
  Tensor y(DType::kFloat32, 3, 8);
  const auto refused = [&](const char* part, auto spoil) {
    Fp8GemmArgs args = p.Args(&y);
    spoil(&args);
    const Status status = Fp8Gemm(At(Isa::kBaseline), args);
    EXPECT_FALSE(status.ok()) << part;
    EXPECT_NE(status.message().find(part), std::string::npos) << status.message();
  };
  refused("'a' must have dtype", [](Fp8GemmArgs* g) { g->a.dtype = DType::kUInt8; });
  refused("'b' must have dtype", [](Fp8GemmArgs* g) { g->b.dtype = DType::kFloat8E4M3FNUZ; });
  refused("'a' must have 2 dimensions", [](Fp8GemmArgs* g) { g->a.rank = 1; });
  refused("'a' must have 2 dimensions", [](Fp8GemmArgs* g) { g->a.strides[1] = 2; });
  refused("'b' must have shape [N, 200]", [](Fp8GemmArgs* g) { g->b.shape[1] = 199; });
  refused("'b' must have an even", [](Fp8GemmArgs* g) {
    g->b.shape[0] = 7;
    g->activation = ActivationKind::kSwiglu;
  });
  refused("'out' must have shape [3, 8]", [](Fp8GemmArgs* g) { g->out.shape[1] = 7; });
  refused("'bias' must have shape [8]", [](Fp8GemmArgs* g) { g->bias.shape[0] = 7; });
  refused("'activation'", [](Fp8GemmArgs* g) { g->activation = ActivationKind::kTanh; });
  refused("'scale_a' must have shape [], [3] or [3, 2]",
          [](Fp8GemmArgs* g) { g->scale_a.shape[0] = 2; });
  refused("'scale_b' must have shape [], [8] or [1, 2]", [](Fp8GemmArgs* g) {
    g->scale_b.rank = 2;
    g->scale_b.shape[0] = 8;
    g->scale_b.shape[1] = 2;
  });
  refused("'scale_b' must have dtype", [](Fp8GemmArgs* g) { g->scale_b.dtype = DType::kFloat16; });
  refused("overlaps 'a'", [](Fp8GemmArgs* g) { g->out.data = g->a.data; });
  refused("overlaps 'scale_a'", [](Fp8GemmArgs* g) { g->out.data = g->scale_a.data; });
  refused("must not overlap itself", [](Fp8GemmArgs* g) { g->out.strides[0] = 7; });
}

}  // namespace
}  // namespace kpt::cpu

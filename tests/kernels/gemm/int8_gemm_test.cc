// int8_gemm: exact sums at every instruction set, in every variant, at the largest K; zero points
// of any size; refusals.
#include "kernels/gemm/int8_gemm.h"

#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/kernels/gemm/byte_gemm_testing.h"

namespace kpt::cpu {
namespace {

using testing_util::At;
using testing_util::ByteMatrix;
using testing_util::kFloats;
using testing_util::Levels;
using testing_util::Scales;
using testing_util::Tensor;
using testing_util::Unit;

struct Problem {
  Problem(int64_t rows, int64_t outputs, int64_t depth, int a_rank, int b_rank, bool asymmetric,
          DType out)
      : m(rows),
        n(outputs),
        k(depth),
        out_dtype(out),
        random(static_cast<unsigned>(1000 * rows + 10 * outputs + depth)),
        a(DType::kInt8, rows, depth, 3),
        b(DType::kInt8, outputs, depth, 1),
        scale_a(a_rank, rows, depth, 1, &random),
        scale_b(b_rank, outputs, depth, 1, &random),
        bias(out, 1, outputs) {
    a.Fill(&random);
    b.Fill(&random);
    bias.Fill(&random, 0, 1);
    if (!asymmetric) return;
    for (int64_t i = 0; i < m; ++i) zero.push_back(static_cast<int32_t>(random() % 400) - 200);
  }
  Int8GemmArgs Args(Tensor* y) {
    Int8GemmArgs args;
    args.out = y->view();
    args.a = a.view();
    args.b = b.view();
    args.scale_a = scale_a.view();
    args.scale_b = scale_b.view();
    args.bias = bias.row_view();
    if (!zero.empty()) {
      args.zero_point_a.data = zero.data();
      args.zero_point_a.dtype = DType::kInt32;
      args.zero_point_a.rank = 1;
      args.zero_point_a.shape[0] = m;
      args.zero_point_a.strides[0] = 1;
    }
    return args;
  }

  int64_t m, n, k;
  DType out_dtype;
  std::mt19937 random;
  ByteMatrix a, b;
  Scales scale_a, scale_b;
  Tensor bias;
  std::vector<int32_t> zero;
};

// The sums are exact: only the roundings of what follows remain.
void Check(Isa isa, Problem* p, int threads = 1, const char* force = nullptr) {
  Tensor y(p->out_dtype, p->m, p->n, 5);
  LaunchRecord record;
  LaunchContext ctx = At(isa, &record);
  ctx.num_threads = threads;
  ctx.force_variant = force;
  const Status status = Int8Gemm(ctx, p->Args(&y));
  ASSERT_TRUE(status.ok()) << status.message();
  const std::string where = std::string(record.variant) + " " + std::to_string(p->m) + "x" +
                            std::to_string(p->n) + "x" + std::to_string(p->k);
  EXPECT_TRUE(y.GapsUntouched()) << where;
  for (int64_t m = 0; m < p->m; ++m) {
    for (int64_t n = 0; n < p->n; ++n) {
      double sum = 0;
      const double zero = p->zero.empty() ? 0 : p->zero[static_cast<size_t>(m)];
      for (int64_t k = 0; k < p->k; ++k) sum += (p->a.Value(m, k) - zero) * p->b.Value(n, k);
      if (p->k > 0) sum *= p->scale_a.Value(m, 0) * p->scale_b.Value(n, 0);
      const double bias = p->bias.Get(0, n);
      const double allowed =
          1.05 * Unit(p->out_dtype) * std::fabs(sum + bias) + 0x1p-22 * std::fabs(sum) + 1e-30;
      ASSERT_NEAR(y.Get(m, n), sum + bias, allowed) << where << " row " << m << " output " << n;
    }
  }
}

TEST(Int8Gemm, AgreesWithDoubleAtEveryLevel) {
  int turn = 0;
  for (int64_t n : {1, 17, 65, 130}) {
    for (int64_t k : {0, 1, 63, 64, 130, 515, 1100}) {
      for (int64_t m : {1, 2, 4, 5, 11, 17}) {
        ++turn;
        Problem p(m, n, k, turn % 2, turn / 2 % 2, turn % 3 == 0, kFloats[turn % 3]);
        for (Isa isa : Levels()) Check(isa, &p);
      }
    }
  }
}

TEST(Int8Gemm, ManyRowsAndLongK) {
  Problem tall(2100, 70, 1030, 1, 1, true, DType::kFloat32);
  Problem wide(40, 1000, 4200, 1, 1, false, DType::kBFloat16);
  for (Isa isa : Levels()) {
    Check(isa, &tall, 2);
    Check(isa, &wide, 3);
  }
}

TEST(Int8Gemm, EveryVariantCanBeForced) {
  for (const VariantInfo& variant : Int8GemmVariants()) {
    if (variant.isa > DetectedIsa()) continue;
    Problem p(3, 70, 200, 1, 1, true, DType::kFloat32);
    Check(variant.isa, &p, 2, variant.name);
  }
}

// -128 times -128 in all places of the longest rows: the sum is just below 2^31. A zero point of
// -128 then makes every term of a zero, and the smallest one makes the sum as large as can be.
TEST(Int8Gemm, LargestSums) {
  for (int64_t m : {1, 6}) {
    Problem p(m, 2, kMaxInt8GemmK, 0, 0, false, DType::kFloat32);
    for (uint8_t& code : p.a.bytes) code = 0x80;
    for (uint8_t& code : p.b.bytes) code = 0x80;
    for (Isa isa : Levels()) Check(isa, &p);
    for (int32_t zero : {-128, std::numeric_limits<int32_t>::min()}) {
      p.zero.assign(static_cast<size_t>(m), zero);
      for (Isa isa : Levels()) Check(isa, &p);
    }
  }
}

TEST(Int8Gemm, AllVariantsSumAlike) {
  for (int64_t m : {3, 40}) {
    Problem p(m, 130, 700, 1, 1, true, DType::kFloat32);
    Tensor first(DType::kFloat32, m, p.n);
    ASSERT_TRUE(Int8Gemm(At(Isa::kBaseline), p.Args(&first)).ok());
    for (Isa isa : Levels()) {
      Tensor y(DType::kFloat32, m, p.n);
      LaunchContext ctx = At(isa);
      ctx.num_threads = 3;
      ASSERT_TRUE(Int8Gemm(ctx, p.Args(&y)).ok());
      for (int64_t r = 0; r < m; ++r) {
        for (int64_t c = 0; c < p.n; ++c) {
          // Without FMA the bias is added to a rounded product.
          ASSERT_NEAR(y.Get(r, c), first.Get(r, c), 0x1p-22 * std::fabs(first.Get(r, c)) + 1e-5);
        }
      }
    }
  }
}

TEST(Int8Gemm, Refusals) {
  Problem p(3, 8, 20, 1, 1, true, DType::kFloat32);
  Tensor y(DType::kFloat32, 3, 8);
  const auto refused = [&](const char* part, auto spoil) {
    Int8GemmArgs args = p.Args(&y);
    spoil(&args);
    const Status status = Int8Gemm(At(Isa::kBaseline), args);
    EXPECT_FALSE(status.ok()) << part;
    EXPECT_NE(status.message().find(part), std::string::npos) << status.message();
  };
  refused("'a' must have dtype int8", [](Int8GemmArgs* g) { g->a.dtype = DType::kUInt8; });
  refused("'b' must have dtype int8", [](Int8GemmArgs* g) { g->b.dtype = DType::kFloat8E5M2; });
  refused("'b' must have shape [N, 20]", [](Int8GemmArgs* g) { g->b.shape[1] = 19; });
  refused("'scale_a' must have shape [] or [3]", [](Int8GemmArgs* g) { g->scale_a.shape[0] = 2; });
  refused("'scale_b' must have shape [] or [8]", [](Int8GemmArgs* g) { g->scale_b.rank = 2; });
  refused("'zero_point_a' must have shape [3]", [](Int8GemmArgs* g) { g->zero_point_a.rank = 0; });
  refused("'zero_point_a' must have dtype int32",
          [](Int8GemmArgs* g) { g->zero_point_a.dtype = DType::kInt64; });
  refused("at most 131071 columns", [](Int8GemmArgs* g) {
    g->a.shape[1] = g->b.shape[1] = kMaxInt8GemmK + 1;
    g->a.strides[0] = g->b.strides[0] = kMaxInt8GemmK + 1;
    static float elsewhere[24];
    g->out.data = elsewhere;
  });
  refused("overlaps 'zero_point_a'", [](Int8GemmArgs* g) { g->out.data = g->zero_point_a.data; });
}

}  // namespace
}  // namespace kpt::cpu

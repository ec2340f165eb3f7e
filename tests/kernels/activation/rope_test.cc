// rope: every instruction set, dtype, layout and tail against double precision; aliasing, refusals.
#include "kernels/activation/rope.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/kernels/base/row_op_testing.h"

namespace kpt::cpu {
namespace {

using testing_util::At;
using testing_util::kFloats;
using testing_util::Levels;
using testing_util::Tensor;
using testing_util::Unit;

struct Sizes {
  int64_t batch, heads_q, heads_k, seqlen, head_dim, pairs;
};

// Heads [first, first + heads) of rows [batch * seqlen, all * head_dim], as [B, H, S, D].
MutableTensorView Heads(Tensor* t, const Sizes& z, int64_t first, int64_t heads) {
  MutableTensorView v = t->view();
  const int64_t row = v.strides[0];
  v.data = static_cast<char*>(v.mutable_data()) + first * z.head_dim * ItemSize(v.dtype);
  v.rank = 4;
  const int64_t shape[] = {z.batch, heads, z.seqlen, z.head_dim};
  const int64_t strides[] = {z.seqlen * row, z.head_dim, row, 1};
  for (int d = 0; d < 4; ++d) {
    v.shape[d] = shape[d];
    v.strides[d] = strides[d];
  }
  return v;
}

// [B, S, W] tables.
MutableTensorView Table(Tensor* t, const Sizes& z) {
  MutableTensorView v = t->view();
  v.rank = 3;
  v.shape[2] = v.shape[1];
  v.shape[0] = z.batch;
  v.shape[1] = z.seqlen;
  v.strides[1] = v.strides[0];
  v.strides[0] = z.seqlen * v.strides[1];
  v.strides[2] = 1;
  return v;
}

struct Problem {
  Problem(const Sizes& z, DType dtype, DType table, bool interleaved, bool inverse)
      : z(z),
        interleaved(interleaved),
        inverse(inverse),
        joint(dtype, z.batch * z.seqlen, (z.heads_q + z.heads_k + 1) * z.head_dim, 3),
        out(dtype, z.batch * z.seqlen, (z.heads_q + z.heads_k + 1) * z.head_dim, 5),
        cos(table, z.batch * z.seqlen, z.pairs, 1),
        sin(table, z.batch * z.seqlen, z.pairs, 2) {
    std::mt19937 random(7);
    joint.Fill(&random, 0.0f, 1.0f);
    out.Fill(&random, 0.0f, 1.0f);
    cos.Fill(&random, 0.0f, 30.0f);
    for (int64_t r = 0; r < cos.rows(); ++r) {
      for (int64_t c = 0; c < z.pairs; ++c) {
        const float angle = cos.Get(r, c);
        cos.Set(r, c, std::cos(angle));
        sin.Set(r, c, std::sin(angle));
      }
    }
  }

  Status Run(const LaunchContext& ctx, Tensor* to) {
    return Rope(ctx, {Heads(to, z, 0, z.heads_q), Heads(to, z, z.heads_q, z.heads_k),
                      Heads(&joint, z, 0, z.heads_q), Heads(&joint, z, z.heads_q, z.heads_k),
                      Table(&cos, z), Table(&sin, z), interleaved, inverse});
  }

  Sizes z;
  bool interleaved, inverse;
  Tensor joint, out, cos, sin;
};

void Check(Isa isa, const Sizes& z, DType dtype, DType table, bool interleaved, bool inverse) {
  Problem p(z, dtype, table, interleaved, inverse);
  const Tensor before = p.out;
  ASSERT_TRUE(p.Run(At(isa), &p.out).ok());
  const std::string where = std::string(Name(isa)) + " " + Name(dtype) + " D" +
                            std::to_string(z.head_dim) + " R" + std::to_string(z.pairs);
  EXPECT_TRUE(p.out.GapsUntouched()) << where;
  const int64_t rotated = (z.heads_q + z.heads_k) * z.head_dim;
  for (int64_t r = 0; r < p.joint.rows(); ++r) {
    for (int64_t c = 0; c < p.joint.cols(); ++c) {
      if (c >= rotated) {
        ASSERT_EQ(p.out.Get(r, c), before.Get(r, c)) << where;
        continue;
      }
      const int64_t start = c / z.head_dim * z.head_dim, i = c - start;
      if (i >= 2 * z.pairs) {
        ASSERT_EQ(p.out.Get(r, c), p.joint.Get(r, c)) << where;
        continue;
      }
      const int64_t pair = interleaved ? i / 2 : i % z.pairs;
      const bool second = interleaved ? i % 2 == 1 : i >= z.pairs;
      const int64_t a = start + (interleaved ? 2 * pair : pair);
      const int64_t b = a + (interleaved ? 1 : z.pairs);
      const double cosine = p.cos.Get(r, pair), sine = p.sin.Get(r, pair) * (inverse ? -1.0 : 1.0);
      const double want = second ? p.joint.Get(r, b) * cosine + p.joint.Get(r, a) * sine
                                 : p.joint.Get(r, a) * cosine - p.joint.Get(r, b) * sine;
      ASSERT_NEAR(p.out.Get(r, c), want, 1.05 * Unit(dtype) * std::fabs(want) + 0x1p-22)
          << where << " col " << c;
    }
  }
  // In place, among values that are not q or k.
  ASSERT_TRUE(p.Run(At(isa), &p.joint).ok());
  for (int64_t r = 0; r < p.joint.rows(); ++r) {
    for (int64_t c = 0; c < rotated; ++c) ASSERT_EQ(p.joint.Get(r, c), p.out.Get(r, c)) << where;
  }
}

TEST(Rope, AgreesWithDoubleAtEveryLevel) {
  const Sizes sizes[] = {{1, 2, 1, 3, 64, 32}, {2, 1, 2, 5, 66, 33},   {2, 3, 1, 1, 10, 4},
                         {1, 1, 1, 2, 2, 1},   {1, 2, 2, 70, 32, 16},  {1, 1, 1, 2, 4100, 2050},
                         {2, 1, 1, 3, 7, 0},   {1, 4, 2, 33, 128, 63}, {3, 2, 2, 2, 31, 15}};
  for (Isa isa : Levels()) {
    for (DType dtype : kFloats) {
      for (const Sizes& z : sizes) {
        for (bool interleaved : {false, true}) {
          Check(isa, z, dtype, DType::kFloat32, interleaved, false);
          Check(isa, z, dtype, dtype, interleaved, true);
        }
      }
    }
  }
}

TEST(Rope, ThreadsDoNotMatter) {
  Problem p({2, 4, 2, 100, 64, 32}, DType::kBFloat16, DType::kFloat32, false, false);
  LaunchContext ctx = At(DetectedIsa());
  ASSERT_TRUE(p.Run(ctx, &p.out).ok());
  const std::vector<unsigned char> one = p.out.bytes();
  ctx.num_threads = 3;
  ASSERT_TRUE(p.Run(ctx, &p.out).ok());
  EXPECT_EQ(p.out.bytes(), one);
}

void ExpectRefused(const Status& status, StatusCode code, const std::string& part) {
  EXPECT_EQ(status.code(), code) << status.message();
  EXPECT_NE(status.message().find(part), std::string::npos) << status.message();
}

TEST(Rope, Refusals) {
  const LaunchContext ctx = At(Isa::kBaseline);
  const auto bad = StatusCode::kInvalidArgument;
  const Sizes z{2, 2, 1, 3, 8, 4};
  Problem p(z, DType::kFloat32, DType::kFloat32, false, false);
  const MutableTensorView q = Heads(&p.joint, z, 0, 2), k = Heads(&p.joint, z, 2, 1);
  const MutableTensorView out_q = Heads(&p.out, z, 0, 2), out_k = Heads(&p.out, z, 2, 1);
  const TensorView cos = Table(&p.cos, z), sin = Table(&p.sin, z);
  TensorView three = q;
  three.rank = 3;
  ExpectRefused(Rope(ctx, {out_q, out_k, three, k, cos, sin}), bad, "argument 'q' must have");
  TensorView short_k = k;
  short_k.shape[2] = 2;
  ExpectRefused(Rope(ctx, {out_q, out_k, q, short_k, cos, sin}), bad,
                "argument 'k' must have q's batch, seqlen and head_dim");
  TensorView half = k;
  half.dtype = DType::kFloat16;
  ExpectRefused(Rope(ctx, {out_q, out_k, q, half, cos, sin}), StatusCode::kTypeError,
                "argument 'k' must have dtype float32");
  TensorView long_table = cos;
  long_table.shape[1] = 2;
  ExpectRefused(Rope(ctx, {out_q, out_k, q, k, long_table, sin}), bad, "argument 'cos' must be");
  Tensor wide(DType::kFloat32, 6, 8);
  ExpectRefused(Rope(ctx, {out_q, out_k, q, k, Table(&wide, z), Table(&wide, z), true}), bad,
                "must have at most head_dim / 2 columns, got 8");
  EXPECT_TRUE(Rope(ctx, {out_q, out_k, q, k, Table(&wide, z), Table(&wide, z)}).ok());
  ExpectRefused(Rope(ctx, {out_q, out_k, q, k, cos, Table(&wide, z)}), bad,
                "'sin' must have shape");
  // Overlaps: onto the other's input, onto the other's output, one head further.
  ExpectRefused(Rope(ctx, {q, Heads(&p.joint, z, 1, 1), q, k, cos, sin}), bad, "overlaps");
  ExpectRefused(Rope(ctx, {out_q, Heads(&p.out, z, 1, 1), q, k, cos, sin}), bad,
                "argument 'out_k' overlaps 'out_q'");
  ExpectRefused(Rope(ctx, {Heads(&p.joint, z, 1, 2), out_k, q, k, cos, sin}), bad,
                "argument 'out_q' overlaps 'q'");
  MutableTensorView flat = out_q;
  flat.strides[2] = 0;
  ExpectRefused(Rope(ctx, {flat, out_k, q, k, cos, sin}), bad, "must not overlap itself");
}

TEST(Rope, EveryLevelHasItsVariant) {
  std::set<std::string> names;
  Problem p({1, 1, 1, 1, 8, 4}, DType::kFloat32, DType::kFloat32, false, false);
  for (Isa isa : Levels()) {
    LaunchRecord record;
    ASSERT_TRUE(p.Run(At(isa, &record), &p.out).ok());
    names.insert(record.variant);
  }
  EXPECT_EQ(names.size(), std::min<size_t>(RopeVariants().size(), Levels().size()));
}

}  // namespace
}  // namespace kpt::cpu

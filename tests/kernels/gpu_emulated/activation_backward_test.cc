// act_mul_backward, softmax_backward and rope: their GPU kernels in emulation (not run on a GPU),
// against double precision.
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/activation/act_mul_backward.h"
#include "kernels/activation/rope.h"
#include "kernels/activation/softmax_backward.h"
#include "tests/kernels/activation/activation_testing.h"
#include "tests/kernels/base/row_op_testing.h"
#include "tests/kernels/gpu_emulated/emulated_testing.h"

namespace kpt::emulated {
namespace {

using activation_testing::Allowed;
using emulated_testing::Context;
using testing_util::kFloats;
using testing_util::Tensor;
using testing_util::Unit;
using K = ActivationKind;

void CheckActMulBackward(const char* variant, DType dtype, int64_t n, int64_t gap, bool in_place) {
  constexpr int64_t kRows = 3;
  std::mt19937 random(static_cast<unsigned>(n));
  Tensor pair(dtype, kRows, 2 * n, gap), grad(dtype, kRows, n, gap), out(dtype, kRows, 2 * n, gap);
  pair.Fill(&random, 0, 3);
  grad.Fill(&random, 0, 1);
  for (K kind : {K::kSilu, K::kGelu, K::kGeluTanh, K::kRelu, K::kSigmoid}) {
    Tensor over = pair;
    Tensor& result = in_place ? over : out;
    const Status status = ActMulBackward(
        Context(variant), {result.view(), grad.view(), in_place ? over.view() : pair.view(), kind});
    ASSERT_TRUE(status.ok()) << status.message();
    ASSERT_TRUE(result.GapsUntouched());
    for (int64_t r = 0; r < kRows; ++r) {
      for (int64_t c = 0; c < n; ++c) {
        const double gate = pair.Get(r, c), up = pair.Get(r, n + c), g = grad.Get(r, c);
        const double want_gate = g * up * activation_testing::Slope(kind, gate);
        const double want_up = g * activation_testing::Exact(kind, gate);
        const std::string where = std::string(Name(dtype)) + " " + std::to_string(n) + " kind " +
                                  std::to_string(static_cast<int>(kind));
        ASSERT_NEAR(result.Get(r, c), want_gate, Allowed(dtype, want_gate, 4 * std::fabs(g * up)))
            << where;
        ASSERT_NEAR(result.Get(r, n + c), want_up, Allowed(dtype, want_up, 0.2 * std::fabs(g)))
            << where;
      }
    }
  }
}

TEST(EmulatedActMulBackward, AgreesWithDouble) {
  for (DType dtype : kFloats) {
    for (bool in_place : {false, true}) {
      for (int64_t n : {1, 7, 127, 129, 1001}) {
        CheckActMulBackward("scalars", dtype, n, 1, in_place);
      }
      for (int64_t n : {8, 64, 512, 4104}) CheckActMulBackward("vectors", dtype, n, 8, in_place);
    }
  }
}

void CheckSoftmaxBackward(const char* variant, DType dtype, int64_t n, int64_t gap) {
  constexpr int64_t kRows = 5;
  std::mt19937 random(static_cast<unsigned>(n));
  Tensor x(dtype, kRows, n), out(dtype, kRows, n, gap), grad(dtype, kRows, n, gap);
  x.Fill(&random, 0, 2);
  grad.Fill(&random, 0.5f, 1);
  ASSERT_TRUE(Softmax(Context(), {out.view(), x.view(), 1.0f}).ok());
  const float scale = 0.25f;
  Tensor got(dtype, kRows, n, gap), over_grad = grad, over_out = out;
  const Status status =
      SoftmaxBackward(Context(variant), {got.view(), grad.view(), out.view(), scale});
  ASSERT_TRUE(status.ok()) << status.message();
  ASSERT_TRUE(got.GapsUntouched());
  for (int64_t r = 0; r < kRows; ++r) {
    double dot = 0, size = 0;
    for (int64_t c = 0; c < n; ++c) {
      dot += double{grad.Get(r, c)} * out.Get(r, c);
      size += std::fabs(double{grad.Get(r, c)} * out.Get(r, c));
    }
    for (int64_t c = 0; c < n; ++c) {
      const double want = scale * out.Get(r, c) * (grad.Get(r, c) - dot);
      const double allowed = 1.05 * Unit(dtype) * std::fabs(want) +
                             0x1p-19 * out.Get(r, c) * (std::fabs(grad.Get(r, c)) + size) + 0x1p-25;
      ASSERT_NEAR(got.Get(r, c), want, allowed) << Name(dtype) << " " << n << " " << r << " " << c;
    }
  }
  ASSERT_TRUE(
      SoftmaxBackward(Context(variant), {over_grad.view(), over_grad.view(), out.view(), scale})
          .ok());
  EXPECT_EQ(over_grad.bytes(), got.bytes());
  ASSERT_TRUE(
      SoftmaxBackward(Context(variant), {over_out.view(), grad.view(), over_out.view(), scale})
          .ok());
  EXPECT_EQ(over_out.bytes(), got.bytes());
}

TEST(EmulatedSoftmaxBackward, AgreesWithDouble) {
  for (DType dtype : kFloats) {
    for (int64_t n : {1, 2, 31, 127, 129, 1000, 4097}) {
      CheckSoftmaxBackward("rows_scalar", dtype, n, 1);
    }
    for (int64_t n : {8, 64, 264, 1024, 8192}) {
      CheckSoftmaxBackward("rows_held", dtype, n, 8);
      CheckSoftmaxBackward("rows_long", dtype, n, 8);
    }
  }
  CheckSoftmaxBackward(nullptr, DType::kBFloat16, 65536, 8);
}

// q or k as [batch, heads, seqlen, head_dim], the layout of its rows given by strides.
MutableTensorView Heads(Tensor* t, int64_t batch, int64_t heads, int64_t seqlen, int64_t head_dim,
                        bool seqlen_first, int64_t row) {
  MutableTensorView v = t->view();
  v.rank = 4;
  v.shape[0] = batch, v.shape[1] = heads, v.shape[2] = seqlen, v.shape[3] = head_dim;
  v.strides[0] = heads * seqlen * row;
  v.strides[1] = seqlen_first ? row : seqlen * row;
  v.strides[2] = seqlen_first ? heads * row : row;
  v.strides[3] = 1;
  return v;
}

struct RopeProblem {
  DType dtype;
  int64_t head_dim, pairs;
  bool interleaved = false;
  bool inverse = false;
  bool seqlen_first = false;
  int64_t batch = 2, seqlen = 3, query_heads = 6, key_heads = 1;
  int64_t gap = 0;
  DType table = DType::kFloat32;
  int table_batch = 0;  // 0: [S, R]
  bool in_place = false;
};

void CheckRope(const char* variant, const RopeProblem& p) {
  std::mt19937 random(static_cast<unsigned>(p.head_dim));
  const int64_t b = p.batch, s = p.seqlen, d = p.head_dim;
  Tensor q(p.dtype, b * p.query_heads * s, d, p.gap), k(p.dtype, b * p.key_heads * s, d, p.gap);
  q.Fill(&random, 0, 1);
  k.Fill(&random, 0, 1);
  Tensor out_q = q, out_k = k;
  if (!p.in_place) {
    out_q = Tensor(p.dtype, b * p.query_heads * s, d, p.gap);
    out_k = Tensor(p.dtype, b * p.key_heads * s, d, p.gap);
  }
  const int64_t tables = p.table_batch > 0 ? p.table_batch : 1;
  Tensor cos(p.table, tables * s, p.pairs), sin(p.table, tables * s, p.pairs);
  for (int64_t r = 0; r < tables * s; ++r) {
    for (int64_t c = 0; c < p.pairs; ++c) {
      const double angle = static_cast<double>(r + 1) / std::pow(3.0, static_cast<double>(c) / 4);
      cos.Set(r, c, static_cast<float>(std::cos(angle)));
      sin.Set(r, c, static_cast<float>(std::sin(angle)));
    }
  }
  const auto heads = [&](Tensor* t, int64_t count) {
    return Heads(t, b, count, s, d, p.seqlen_first, d + p.gap);
  };
  const auto table = [&](Tensor* t) {
    MutableTensorView v = t->view();
    if (p.table_batch > 0) {
      v.rank = 3;
      v.shape[0] = p.table_batch, v.shape[1] = s, v.shape[2] = p.pairs;
      v.strides[0] = s * p.pairs, v.strides[1] = p.pairs, v.strides[2] = 1;
    }
    return v;
  };
  RopeArgs args;
  args.out_q = heads(&out_q, p.query_heads);
  args.out_k = heads(&out_k, p.key_heads);
  args.q = heads(p.in_place ? &out_q : &q, p.query_heads);
  args.k = heads(p.in_place ? &out_k : &k, p.key_heads);
  args.cos = table(&cos);
  args.sin = table(&sin);
  args.interleaved = p.interleaved;
  args.inverse = p.inverse;
  LaunchRecord record;
  const Status status = Rope(Context(variant, &record), args);
  ASSERT_TRUE(status.ok()) << status.message();
  ASSERT_TRUE(out_q.GapsUntouched() && out_k.GapsUntouched());
  const auto check = [&](const Tensor& in, const Tensor& out, int64_t count) {
    for (int64_t r = 0; r < in.rows(); ++r) {
      const int64_t batch = r / (count * s), rest = r % (count * s);
      const int64_t position = p.seqlen_first ? rest / count : rest % s;
      const int64_t t = (p.table_batch > 1 ? batch * s : 0) + position;
      for (int64_t c = 0; c < d; ++c) {
        double want = in.Get(r, c);
        if (c < 2 * p.pairs) {
          const int64_t pair = p.interleaved ? c / 2 : c % p.pairs;
          const bool is_first = p.interleaved ? c % 2 == 0 : c < p.pairs;
          const int64_t i = p.interleaved ? 2 * pair : pair;
          const int64_t j = p.interleaved ? 2 * pair + 1 : pair + p.pairs;
          const double co = cos.Get(t, pair), si = p.inverse ? -sin.Get(t, pair) : sin.Get(t, pair);
          want = is_first ? in.Get(r, i) * co - in.Get(r, j) * si
                          : in.Get(r, j) * co + in.Get(r, i) * si;
        }
        ASSERT_NEAR(out.Get(r, c), want, 1.05 * Unit(p.dtype) * std::fabs(want) + 0x1p-20)
            << record.variant << " " << Name(p.dtype) << " row " << r << " col " << c;
      }
    }
  };
  check(q, out_q, p.query_heads);
  check(k, out_k, p.key_heads);
}

TEST(EmulatedRope, AgreesWithDouble) {
  for (DType dtype : kFloats) {
    for (bool interleaved : {false, true}) {
      RopeProblem p{dtype, 64, 32};
      p.interleaved = interleaved;
      CheckRope("vectors", p);
      CheckRope("scalars", p);
      p.inverse = true;
      p.table = dtype;
      p.table_batch = 2;
      CheckRope("vectors", p);
      p.seqlen_first = true;
      p.in_place = true;
      CheckRope("vectors", p);
      CheckRope("scalars", p);
      p.pairs = 16;  // the rest passes through
      p.gap = 8;
      p.table_batch = 1;
      CheckRope("vectors", p);
      p.in_place = false;
      CheckRope("vectors", p);
      p.gap = 3;
      p.pairs = 5;
      p.head_dim = 13;
      p.key_heads = 9;
      CheckRope("scalars", p);
    }
  }
}

TEST(EmulatedRope, ManyPositions) {
  RopeProblem p{DType::kBFloat16, 128, 64};
  p.seqlen = 129;
  p.batch = 1;
  p.key_heads = 2;
  CheckRope(nullptr, p);
}

}  // namespace
}  // namespace kpt::emulated

// grouped_gemm and its gradients: the bits of linear_act and linear_act_backward on each group.
#include "kernels/gemm/grouped_gemm.h"

#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/gemm/grouped_gemm_backward.h"
#include "kernels/gemm/linear_act.h"
#include "kernels/gemm/linear_act_backward.h"
#include "tests/kernels/base/row_op_testing.h"

namespace kpt::cpu {
namespace {

using testing_util::At;
using testing_util::kFloats;
using testing_util::Levels;
using testing_util::Tensor;

// Weights of `groups` groups, one under the other, as [E, N, K].
MutableTensorView Stacked(Tensor* t, int64_t groups) {
  MutableTensorView v = t->view();
  v.rank = 3;
  v.shape[2] = v.shape[1];
  v.strides[2] = 1;
  v.shape[1] = v.shape[0] / groups;
  v.strides[1] = v.strides[0];
  v.shape[0] = groups;
  v.strides[0] = v.shape[1] * v.strides[1];
  return v;
}

TensorView Ends(const std::vector<int32_t>& ends) {
  TensorView v;
  v.data = ends.data();
  v.dtype = DType::kInt32;
  v.rank = 1;
  v.shape[0] = static_cast<int64_t>(ends.size());
  v.strides[0] = 1;
  return v;
}

// Rows [begin, end) of a view of rank 2.
template <class View>
View Rows(const View& v, int64_t begin, int64_t end) {
  View part = v;
  part.data = v.template as<char>() + begin * v.strides[0] * ItemSize(v.dtype);
  part.shape[0] = end - begin;
  return part;
}

struct Problem {
  Problem(DType type, int64_t rows, int64_t outputs, int64_t depth, std::vector<int32_t> group_ends)
      : dtype(type),
        t(rows),
        n(outputs),
        k(depth),
        ends(std::move(group_ends)),
        x(type, rows, depth, 3),
        weight(type, experts() * outputs, depth, 1),
        grad_out(type, rows, outputs, 2) {
    std::mt19937 random(static_cast<unsigned>(1000 * rows + 10 * outputs + depth));
    x.Fill(&random, 0, 1);
    weight.Fill(&random, 0, 0.1f);
    grad_out.Fill(&random, 0, 1);
  }
  int64_t experts() const { return static_cast<int64_t>(ends.size()); }
  // The first row of group e, and the one after its last.
  int64_t Begin(int64_t e) const {
    return masked ? e * (t / experts()) : e == 0 ? 0 : ends[static_cast<size_t>(e - 1)];
  }
  int64_t End(int64_t e) const { return (masked ? Begin(e) : 0) + ends[static_cast<size_t>(e)]; }

  DType dtype;
  int64_t t, n, k;
  std::vector<int32_t> ends;  // masked: counts
  bool masked = false;
  Tensor x, weight, grad_out;
};

void Check(Isa isa, Problem* p, int threads, const char* force = nullptr) {
  const std::string where = std::string(Name(isa)) + " " + Name(p->dtype) + " " +
                            std::to_string(p->t) + "x" + std::to_string(p->n) + "x" +
                            std::to_string(p->k);
  LaunchContext ctx = At(isa), one = At(isa);
  ctx.num_threads = threads;
  ctx.force_variant = force;
  Tensor out(p->dtype, p->t, p->n, 5), grad_x(p->dtype, p->t, p->k, 5);
  Tensor grad_weight(p->dtype, p->experts() * p->n, p->k, 5);
  GroupedGemmArgs args;
  args.out = out.view();
  args.x = p->x.view();
  args.weight = Stacked(&p->weight, p->experts());
  args.offsets = Ends(p->ends);
  args.masked = p->masked;
  ASSERT_TRUE(GroupedGemm(ctx, args).ok()) << where;
  GroupedGemmBackwardArgs back;
  back.grad_x = grad_x.view();
  back.grad_weight = Stacked(&grad_weight, p->experts());
  back.grad_out = p->grad_out.view();
  back.x = args.x;
  back.weight = args.weight;
  back.offsets = args.offsets;
  back.masked = args.masked;
  ASSERT_TRUE(GroupedGemmBackward(ctx, back).ok()) << where;

  Tensor want_out(p->dtype, p->t, p->n, 5), want_x(p->dtype, p->t, p->k, 5);
  Tensor want_weight(p->dtype, p->experts() * p->n, p->k, 5);
  for (int64_t r = 0; r < p->t; ++r) {
    for (int64_t j = 0; j < p->n; ++j) want_out.Set(r, j, 0);
    for (int64_t j = 0; j < p->k; ++j) want_x.Set(r, j, 0);
  }
  for (int64_t e = 0; e < p->experts(); ++e) {
    const int64_t begin = p->Begin(e), end = p->End(e);
    LinearActArgs linear;
    linear.out = Rows(want_out.view(), begin, end);
    linear.x = Rows(p->x.view(), begin, end);
    linear.weight = Rows(p->weight.view(), e * p->n, (e + 1) * p->n);
    ASSERT_TRUE(LinearAct(one, linear).ok()) << where;
    LinearActBackwardArgs gradient;
    gradient.grad_x = Rows(want_x.view(), begin, end);
    gradient.grad_weight = Rows(want_weight.view(), e * p->n, (e + 1) * p->n);
    gradient.grad_out = Rows(p->grad_out.view(), begin, end);
    gradient.x = linear.x;
    gradient.weight = linear.weight;
    ASSERT_TRUE(LinearActBackward(one, gradient).ok()) << where;
  }
  EXPECT_EQ(out.bytes(), want_out.bytes()) << where;
  EXPECT_EQ(grad_x.bytes(), want_x.bytes()) << where;
  EXPECT_EQ(grad_weight.bytes(), want_weight.bytes()) << where;
}

TEST(GroupedGemm, BitsOfTheLinearLayerOfEachGroup) {
  for (Isa isa : Levels()) {
    for (DType dtype : kFloats) {
      int threads = 0;
      for (int64_t n : {1, 17, 65, 200}) {
        for (int64_t k : {1, 33, 130}) {
          // An odd start, empty groups, one row, few rows, many rows, rows of no group.
          Problem p(dtype, 200, n, k, {1, 1, 12, 45, 45, 190});
          Check(isa, &p, 1 + threads++ % 5);
        }
      }
    }
  }
}

TEST(GroupedGemm, SlotsOfTheMaskedLayout) {
  for (Isa isa : Levels()) {
    for (DType dtype : kFloats) {
      Problem p(dtype, 200, 65, 33, {0, 50, 1, 17});
      p.masked = true;
      // What no group uses is not read.
      for (int64_t j = 0; j < 33; ++j) p.x.Set(3, j, std::nanf(""));
      for (int64_t j = 0; j < 65; ++j) p.grad_out.Set(101, j, std::nanf(""));
      Check(isa, &p, 3);
    }
  }
}

TEST(GroupedGemm, OneLargeGroupIsCutInRows) {
  for (Isa isa : Levels()) {
    for (DType dtype : kFloats) {
      Problem p(dtype, 1100, 70, 64, {3, 1040, 1040, 1100});
      Check(isa, &p, 7);
    }
  }
}

TEST(GroupedGemm, LongSums) {
  for (Isa isa : Levels()) {
    for (DType dtype : kFloats) {
      Problem p(dtype, 60, 20, 4201, {20, 60});
      Check(isa, &p, 2);
    }
  }
}

TEST(GroupedGemm, EmptySizes) {
  for (DType dtype : kFloats) {
    for (int64_t n : {0, 3}) {
      for (int64_t k : {0, 4}) {
        for (int64_t t : {0, 6}) {
          Problem p(dtype, t, n, k, {0, static_cast<int32_t>(t / 2)});
          Check(Levels().back(), &p, 2);
        }
      }
    }
  }
}

TEST(GroupedGemm, RefusesOffsetsThatDoNotFit) {
  Problem p(DType::kFloat32, 10, 4, 3, {4, 8});
  Tensor out(DType::kFloat32, 10, 4);
  GroupedGemmArgs args;
  args.out = out.view();
  args.x = p.x.view();
  args.weight = Stacked(&p.weight, 2);
  const std::vector<unsigned char> before = out.bytes();
  const std::vector<std::vector<int32_t>> bad = {{5, 4}, {-1, 4}, {4, 11}};
  for (const std::vector<int32_t>& ends : bad) {
    args.offsets = Ends(ends);
    const Status status = GroupedGemm(At(Isa::kBaseline), args);
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
    EXPECT_NE(status.message().find("'offsets' must not decrease"), std::string::npos);
  }
  args.offsets = Ends(p.ends);
  args.offsets.dtype = DType::kInt64;
  EXPECT_EQ(GroupedGemm(At(Isa::kBaseline), args).code(), StatusCode::kTypeError);
  args.offsets = Ends(p.ends);
  args.offsets.shape[0] = 1;
  EXPECT_EQ(GroupedGemm(At(Isa::kBaseline), args).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(out.bytes(), before);
}

TEST(GroupedGemm, EveryVariantCanBeForced) {
  for (const VariantInfo& variant : GroupedGemmVariants()) {
    if (variant.isa > DetectedIsa()) continue;
    Problem p(DType::kBFloat16, 70, 20, 40, {5, 70});
    Check(variant.isa, &p, 2, variant.name);
  }
}

}  // namespace
}  // namespace kpt::cpu

#include "kernels/base/rows.h"

#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace kpt {
namespace {

TensorView View(std::vector<int64_t> shape, std::vector<int64_t> strides, void* data = nullptr) {
  TensorView v;
  v.data = data;
  v.rank = static_cast<int>(shape.size());
  for (int d = 0; d < v.rank; ++d) {
    v.shape[d] = shape[d];
    v.strides[d] = strides[d];
  }
  return v;
}

TensorView Dense(std::vector<int64_t> shape, void* data = nullptr) {
  std::vector<int64_t> strides(shape.size());
  int64_t n = 1;
  for (size_t d = shape.size(); d-- > 0;) {
    strides[d] = n;
    n *= shape[d];
  }
  return View(shape, strides, data);
}

// Offset of row number `row` from the definition of strides.
int64_t Expected(const TensorView& v, int64_t row) {
  int64_t offset = 0;
  for (int d = v.rank - 2; d >= 0; --d) {
    offset += row % v.shape[d] * v.strides[d];
    row /= v.shape[d];
  }
  return offset;
}

void ExpectPlan(const TensorView& a, const TensorView& b, int rank) {
  const RowPlan<2> plan = PlanRows<2>({&a, &b});
  EXPECT_EQ(plan.rank, rank);
  int64_t rows = 1;
  for (int d = 0; d + 1 < a.rank; ++d) rows *= a.shape[d];
  ASSERT_EQ(plan.rows, rows);
  for (int64_t row = 0; row < rows; ++row) {
    int64_t at[2];
    RowOffsets(plan, row, at);
    ASSERT_EQ(at[0], Expected(a, row));
    ASSERT_EQ(at[1], Expected(b, row));
  }
}

TEST(Rows, DenseMergesToOneStride) {
  ExpectPlan(Dense({2, 3, 4, 5}), Dense({2, 3, 4, 5}), 1);
  ExpectPlan(Dense({5}), Dense({5}), 0);
  ExpectPlan(Dense({1, 1, 5}), Dense({1, 1, 5}), 0);
}

TEST(Rows, MergesOnlyWhatAllTensorsAllow) {
  const TensorView dense = Dense({2, 3, 4, 8});
  ExpectPlan(dense, View({2, 3, 4, 8}, {120, 40, 10, 1}), 1);  // wider rows, still even
  ExpectPlan(dense, View({2, 3, 4, 8}, {200, 40, 10, 1}), 2);
  ExpectPlan(dense, View({2, 3, 4, 8}, {8, 64, 16, 1}), 2);
  ExpectPlan(dense, View({2, 3, 4, 8}, {32, 64, 8, 1}), 3);
  ExpectPlan(dense, View({2, 3, 4, 8}, {0, 0, 0, 1}), 1);  // broadcast
}

TEST(Rows, RandomLayouts) {
  std::mt19937 random(3);
  const auto pick = [&](int n) { return static_cast<int>(random() % n); };
  for (int trial = 0; trial < 500; ++trial) {
    const int rank = 1 + pick(5);
    std::vector<int64_t> shape(rank), s1(rank, 1), s2(rank, 1);
    for (auto& n : shape) n = 1 + pick(4);
    for (int d = 0; d + 1 < rank; ++d) {
      s1[d] = pick(200);
      s2[d] = pick(200);
    }
    const TensorView a = View(shape, s1), b = View(shape, s2);
    const RowPlan<2> plan = PlanRows<2>({&a, &b});
    for (int64_t row = 0; row < plan.rows; ++row) {
      int64_t at[2];
      RowOffsets(plan, row, at);
      ASSERT_EQ(at[0], Expected(a, row));
      ASSERT_EQ(at[1], Expected(b, row));
    }
  }
}

TEST(Rows, ElementwiseMergesIntoTheRow) {
  const TensorView dense = Dense({2, 3, 4});
  int64_t cols = 4;
  RowPlan<2> plan = PlanRows<2>({&dense, &dense}, &cols);
  EXPECT_EQ(cols, 24);
  EXPECT_EQ(plan.rows, 1);
  const TensorView gaps = View({2, 3, 4}, {15, 5, 1});
  cols = 4;
  plan = PlanRows<2>({&dense, &gaps}, &cols);
  EXPECT_EQ(cols, 4);
  EXPECT_EQ(plan.rows, 6);
  EXPECT_EQ(plan.rank, 1);
  const TensorView outer_gap = View({2, 3, 4}, {20, 4, 1});
  cols = 4;
  plan = PlanRows<2>({&dense, &outer_gap}, &cols);
  EXPECT_EQ(cols, 12);
  EXPECT_EQ(plan.rows, 2);
  const TensorView scalar = Dense({});
  cols = 1;
  plan = PlanRows<2>({&scalar, nullptr}, &cols);
  EXPECT_EQ(plan.rows, 1);
  EXPECT_EQ(cols, 1);
}

TEST(Rows, EmptyHasNoRowsOrNoColumns) {
  const TensorView a = Dense({3, 0, 4});
  EXPECT_EQ((PlanRows<2>({&a, &a}).rows), 0);
  int64_t cols = 4;
  const RowPlan<2> plan = PlanRows<2>({&a, &a}, &cols);
  EXPECT_EQ(plan.rows * cols, 0);
}

TEST(Overlap, OfAViewWithItself) {
  EXPECT_FALSE(OverlapsItself(Dense({2, 3, 4})));
  EXPECT_FALSE(OverlapsItself(View({2, 3, 4}, {4, 8, 1})));
  EXPECT_FALSE(OverlapsItself(View({1, 4}, {0, 1})));
  EXPECT_FALSE(OverlapsItself(View({0, 4}, {0, 0})));
  EXPECT_TRUE(OverlapsItself(View({2, 4}, {0, 1})));
  EXPECT_TRUE(OverlapsItself(View({2, 4}, {3, 1})));
  EXPECT_TRUE(OverlapsItself(View({2, 4}, {1, 1})));
}

TEST(Overlap, OfTwoViews) {
  float data[100];
  const TensorView a = Dense({4, 5}, data);
  EXPECT_TRUE(SameElements(a, Dense({4, 5}, data)));
  EXPECT_FALSE(SameElements(a, Dense({5, 4}, data)));
  EXPECT_FALSE(SameElements(a, View({4, 5}, {6, 1}, data)));
  EXPECT_TRUE(RangesMeet(a, Dense({4, 5}, data + 19)));
  EXPECT_FALSE(RangesMeet(a, Dense({4, 5}, data + 20)));
  EXPECT_FALSE(RangesMeet(a, Dense({0, 5}, data)));
  EXPECT_EQ(SpanOf(View({4, 5}, {10, 1})), 35);
}

}  // namespace
}  // namespace kpt

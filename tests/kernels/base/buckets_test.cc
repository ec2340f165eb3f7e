#include "kernels/base/buckets.h"

#include <cstdint>
#include <vector>

#include "gtest/gtest.h"

namespace kpt {
namespace {

TEST(BucketsTest, SortsStablyAndLeavesOutNegativeKeys) {
  const Buckets found = SortIntoBuckets({2, 0, -1, 2, 0, 3}, 5);
  EXPECT_EQ(found.count(), 5);
  EXPECT_EQ(found.starts, (std::vector<int64_t>{0, 2, 2, 4, 5, 5}));
  EXPECT_EQ(found.items, (std::vector<int64_t>{1, 4, 0, 3, 5}));
  EXPECT_EQ(found.size(1), 0);
  EXPECT_EQ(found.size(2), 2);
}

TEST(BucketsTest, NothingAtAll) {
  EXPECT_EQ(SortIntoBuckets({}, 0).count(), 0);
  EXPECT_TRUE(SortIntoBuckets({-1, -1}, 3).items.empty());
}

TensorView Matrix(const std::vector<int64_t>& values, int64_t rows, int64_t cols, int64_t step) {
  TensorView t;
  t.data = values.data();
  t.dtype = DType::kInt64;
  t.rank = 2;
  t.shape[0] = rows;
  t.shape[1] = cols;
  t.strides[0] = step;
  t.strides[1] = 1;
  return t;
}

TEST(BucketsTest, ReadsKeysOfStridedRows) {
  const std::vector<int64_t> values = {1, 2, 99, 0, 3, 99};
  std::vector<int64_t> keys;
  ASSERT_TRUE(ReadKeys("op", "a", Matrix(values, 2, 2, 3), 0, 4, "experts", &keys).ok());
  EXPECT_EQ(keys, (std::vector<int64_t>{1, 2, 0, 3}));
}

TEST(BucketsTest, RefusesWhatIsOutOfRange) {
  const std::vector<int64_t> values = {1, 4, -1, 0};
  std::vector<int64_t> keys;
  const Status high = ReadKeys("op", "a", Matrix(values, 2, 2, 2), -1, 4, "experts", &keys);
  EXPECT_EQ(high.message(),
            "op: argument 'a' must be from -1 to 3, below the 4 experts, got 4 at [0, 1]");
  const Status low = ReadKeys("op", "a", Matrix(values, 2, 2, 2), 0, 5, "experts", &keys);
  EXPECT_EQ(low.message(),
            "op: argument 'a' must be from 0 to 4, below the 5 experts, got -1 at [1, 0]");
}

}  // namespace
}  // namespace kpt

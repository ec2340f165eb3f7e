// How rows are spread over the threads and blocks of a GPU.
#include "kernels/base/gpu/row_tiling.h"

#include "gtest/gtest.h"

namespace kpt::gpu {
namespace {

TEST(RowTiling, ShortRowsShareABlock) {
  // 16 vectors of a head of 128 bfloat16: 4 threads, 64 rows a block.
  const RowTiling t = TileRows(1000, 16, 4, 32, 256, 1024);
  EXPECT_EQ(t.threads_per_row, 4);
  EXPECT_EQ(t.rows_per_block(), 64);
  EXPECT_EQ(t.blocks, 16);
}

TEST(RowTiling, LongRowsHaveABlockOfWholeWaves) {
  const RowTiling t = TileRows(7, 640, 4, 32, 256, 1024);
  EXPECT_EQ(t.threads_per_row, 160);
  EXPECT_EQ(t.block_threads, 160);
  EXPECT_EQ(t.blocks, 7);
  EXPECT_EQ(TileRows(7, 640, 4, 64, 256, 1024).threads_per_row, 192);
}

TEST(RowTiling, EveryLengthFits) {
  for (int warp : {32, 64}) {
    for (int64_t units = 1; units <= 262144; units = units * 3 / 2 + 1) {
      const RowTiling t = TileRows(5, units, 4, warp, 256, 1024);
      EXPECT_LE(t.block_threads, 1024);
      EXPECT_EQ(t.block_threads % warp, 0);
      EXPECT_EQ(t.block_threads % t.threads_per_row, 0);
      if (t.threads_per_row <= warp) {
        EXPECT_EQ(t.threads_per_row & (t.threads_per_row - 1), 0);
      } else {
        EXPECT_EQ(t.threads_per_row, t.block_threads);
      }
      if (units <= 4096) {
        EXPECT_GE(t.threads_per_row * 4, units);
      }
    }
  }
}

TEST(RowTiling, ThreadsOfARowDependOnItsLengthAlone) {
  for (int64_t units : {1, 7, 33, 500, 5000}) {
    const int threads = TileRows(1, units, 4, 32, 256, 1024).threads_per_row;
    for (int64_t rows : {2, 1000, 1 << 30}) {
      EXPECT_EQ(TileRows(rows, units, 4, 32, 256, 1024).threads_per_row, threads);
    }
  }
}

TEST(RowTiling, GridsHaveTheirLimit) {
  EXPECT_EQ(TileRows(int64_t{1} << 40, 4096, 4, 32, 256, 1024).blocks, kMaxBlocks);
}

TEST(RowsAligned16, LooksAtPointersStridesAndLengths) {
  RowPlan<2> plan;
  plan.rows = 3;
  plan.rank = 1;
  plan.shape[0] = 3;
  plan.strides[0][0] = 64;
  plan.strides[1][0] = 72;
  alignas(16) char data[64] = {};
  const auto aligned = [&](const void* a, const void* b, int64_t cols, DType dtype) {
    return RowsAligned16<2>(plan, {a, b}, cols, dtype);
  };
  EXPECT_TRUE(aligned(data, data + 16, 64, DType::kBFloat16));
  EXPECT_TRUE(aligned(data, nullptr, 60, DType::kFloat32));
  EXPECT_FALSE(aligned(data, data + 8, 64, DType::kBFloat16));
  EXPECT_FALSE(aligned(data, data + 16, 60, DType::kBFloat16));
  EXPECT_FALSE(aligned(data, data, 62, DType::kFloat32));
  plan.strides[1][0] = 68;
  EXPECT_FALSE(aligned(data, data, 64, DType::kBFloat16));
  EXPECT_TRUE(aligned(data, data, 64, DType::kFloat32));
  EXPECT_TRUE(aligned(data, nullptr, 64, DType::kBFloat16));
}

}  // namespace
}  // namespace kpt::gpu

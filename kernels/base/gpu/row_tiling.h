// How rows are spread over threads and blocks: plain C++ that host code and tests share.
#ifndef KPT_KERNELS_BASE_GPU_ROW_TILING_H_
#define KPT_KERNELS_BASE_GPU_ROW_TILING_H_

#include <cstdint>

#include "kernels/base/dtype.h"
#include "kernels/base/rows.h"

namespace kpt::gpu {

// The most blocks of a grid.
inline constexpr int64_t kMaxBlocks = (int64_t{1} << 31) - 1;

struct RowTiling {
  int threads_per_row = 1;  // a power of two up to a wave; above, a multiple of it
  int block_threads = 0;
  int64_t blocks = 0;  // of rows_per_block() rows; grids loop where there are more rows
  int rows_per_block() const { return block_threads / threads_per_row; }
};

// A row is `units` pieces, of which a thread should take `units_per_thread`; long rows get
// max_threads and loop. The threads of a row depend on its length alone, never on the number of
// rows: so does the order of its sums. Short rows fill blocks of `block_threads` together.
inline RowTiling TileRows(int64_t rows, int64_t units, int units_per_thread, int warp_size,
                          int block_threads, int max_threads) {
  RowTiling tiling;
  const int64_t wanted = (units + units_per_thread - 1) / units_per_thread;
  if (wanted <= warp_size) {
    while (tiling.threads_per_row < wanted) tiling.threads_per_row *= 2;
  } else {
    const int64_t waves = (wanted + warp_size - 1) / warp_size;
    const int64_t most = max_threads / warp_size;
    tiling.threads_per_row = static_cast<int>(waves < most ? waves : most) * warp_size;
  }
  tiling.block_threads =
      tiling.threads_per_row <= warp_size ? block_threads : tiling.threads_per_row;
  const int64_t blocks = (rows + tiling.rows_per_block() - 1) / tiling.rows_per_block();
  tiling.blocks = blocks < kMaxBlocks ? blocks : kMaxBlocks;
  return tiling;
}

// For elementwise kernels: tiles of rows_per_block() rows, a block each.
struct TileGrid {
  int threads_per_row = 1;  // a power of two
  int block_threads = 0;
  int64_t column_tiles = 0;
  int64_t tiles = 0;
  int64_t blocks = 0;  // grids loop where there are more tiles
  int rows_per_block() const { return block_threads / threads_per_row; }
};

// A row is `units` pieces; a thread takes `units_per_thread` of them, its tile's threads_per_row
// apart.
inline TileGrid TileElements(int64_t rows, int64_t units, int units_per_thread, int block_threads) {
  TileGrid grid;
  grid.block_threads = block_threads;
  const int64_t wanted = (units + units_per_thread - 1) / units_per_thread;
  while (grid.threads_per_row < wanted && grid.threads_per_row < block_threads) {
    grid.threads_per_row *= 2;
  }
  const int64_t tile_units = int64_t{grid.threads_per_row} * units_per_thread;
  grid.column_tiles = (units + tile_units - 1) / tile_units;
  grid.tiles = grid.column_tiles * ((rows + grid.rows_per_block() - 1) / grid.rows_per_block());
  grid.blocks = grid.tiles < kMaxBlocks ? grid.tiles : kMaxBlocks;
  return grid;
}

// Whether every row of every tensor (nullptr: not there) starts at a multiple of 16 bytes and is
// such a multiple long: then threads move 16 bytes at a time.
template <int kTensors>
bool RowsAligned16(const RowPlan<kTensors>& plan, const void* const (&data)[kTensors], int64_t cols,
                   DType dtype) {
  const int64_t width = 16 / ItemSize(dtype);
  if (cols % width != 0) return false;
  for (int t = 0; t < kTensors; ++t) {
    if (data[t] == nullptr) continue;
    if (reinterpret_cast<uintptr_t>(data[t]) % 16 != 0) return false;
    for (int d = 0; d < plan.rank; ++d) {
      if (plan.strides[t][d] % width != 0) return false;
    }
  }
  return true;
}

inline bool Aligned16(const void* data) { return reinterpret_cast<uintptr_t>(data) % 16 == 0; }

}  // namespace kpt::gpu

#endif  // KPT_KERNELS_BASE_GPU_ROW_TILING_H_

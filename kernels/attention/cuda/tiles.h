// Tiles of 16-bit rows in shared memory, for all attention kernels: swizzled so that ldmatrix meets
// no bank conflict, filled by cp.async where rows are 16-byte pieces and element by element where
// they are not.
#ifndef KPT_KERNELS_ATTENTION_CUDA_TILES_H_
#define KPT_KERNELS_ATTENTION_CUDA_TILES_H_

#include "kernels/base/cuda/mma.h"
#include "kernels/base/gpu/pack.h"

namespace kpt::gpu {

// A row is kDim / 8 chunks of 16 bytes; chunk c of row r lies where c ^ (r % 8) would: 8 rows of
// one column of chunks are in 8 different groups of banks.
template <int kDim>
KPT_DEVICE int ChunkAt(int row, int chunk) {
  static_assert(kDim % 64 == 0);
  return row * (kDim / 8) + (chunk ^ (row & 7));
}

// 8 elements from p, of which `left` are there; the rest zeros.
template <class T>
KPT_DEVICE Words16 GatherChunk(const T* p, int left) {
  Words16 words = {{0, 0, 0, 0}};
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    if (i < left) words.word[i / 2] |= static_cast<uint32_t>(p[i].bits) << (16 * (i % 2));
  }
  return words;
}

// Begins to fill `rows` rows of a tile at tile[at]. row_at(r) is where row r begins in memory, or
// nullptr: zeros. What is beyond `dim` is zeros. Threads of the block share the work. `any` is an
// address in memory that may be read: copies of nothing have it as their source.
template <int kDim, class T, class RowAt>
KPT_DEVICE void FillTile(SharedPtr<Words16> tile, int at, int rows, int dim, bool aligned,
                         const void* any, const RowAt& row_at) {
  constexpr int kChunks = kDim / 8;
#pragma unroll 1  // copies need no registers once they are begun; their addresses would
  for (int i = ThreadIndex(); i < rows * kChunks; i += BlockThreads()) {
    const int r = i / kChunks, c = i - r * kChunks;
    const T* const row = row_at(r);
    const int left = dim - 8 * c;
    const bool inside = row != nullptr && left > 0;
    const int to = at + ChunkAt<kDim>(r, c);
    if (aligned) {
      CopyAsync16(tile, to, inside ? row + 8 * c : any, inside);
    } else {
      tile[to] = inside ? GatherChunk(row + 8 * c, left) : Words16{{0, 0, 0, 0}};
    }
  }
}

// The fragment of rows [row, row + 16) and columns [16 k, 16 k + 16) as the left factor.
template <int kDim>
KPT_DEVICE void LoadLeft(SharedPtr<Words16> tile, int at, int row, int k, uint32_t (&a)[4]) {
  const int lane = ThreadIndex() % 32;
  LoadMatrix4(tile, at + ChunkAt<kDim>(row + lane % 16, 2 * k + lane / 16), a);
}
// The same of the transposed tile: of its rows [16 k, 16 k + 16) and columns [8 c, 8 c + 16).
template <int kDim>
KPT_DEVICE void LoadLeftTransposed(SharedPtr<Words16> tile, int at, int k, int c,
                                   uint32_t (&a)[4]) {
  const int lane = ThreadIndex() % 32;
  const int row = 16 * k + lane / 16 * 8 + lane % 8;
  LoadMatrix4Transposed(tile, at + ChunkAt<kDim>(row, c + lane / 8 % 2), a);
}
// Right factors, of two neighbours in n: b[0..1] and b[2..3]. Of the tile's rows [row, row + 16) as
// columns n, and its columns [16 k, 16 k + 16):
template <int kDim>
KPT_DEVICE void LoadRight(SharedPtr<Words16> tile, int at, int row, int k, uint32_t (&b)[4]) {
  const int lane = ThreadIndex() % 32;
  LoadMatrix4(tile, at + ChunkAt<kDim>(row + lane / 16 * 8 + lane % 8, 2 * k + lane / 8 % 2), b);
}
// and of its rows [16 k, 16 k + 16) as k, and its columns [8 c, 8 c + 16) as n.
template <int kDim>
KPT_DEVICE void LoadRightTransposed(SharedPtr<Words16> tile, int at, int k, int c,
                                    uint32_t (&b)[4]) {
  const int lane = ThreadIndex() % 32;
  LoadMatrix4Transposed(tile, at + ChunkAt<kDim>(16 * k + lane % 16, c + lane / 16), b);
}

// Fragments of a result, two neighbours in n, as a left factor of 16 columns.
template <class T>
KPT_DEVICE void LeftOf(const float (&d0)[4], const float (&d1)[4], uint32_t (&a)[4]) {
  a[0] = Narrow2(d0[0], d0[1], T());
  a[1] = Narrow2(d0[2], d0[3], T());
  a[2] = Narrow2(d1[0], d1[1], T());
  a[3] = Narrow2(d1[2], d1[3], T());
}

// Two elements of a row from column `column`; those at `dim` and beyond are not stored.
template <class T>
KPT_DEVICE void StorePair(T* row, int column, int dim, bool pairs, float a, float b) {
  const uint32_t word = Narrow2(a, b, T());
  if (pairs && column + 1 < dim) {
    *reinterpret_cast<uint32_t*>(row + column) = word;
    return;
  }
  if (column < dim) row[column] = T{static_cast<uint16_t>(word)};
  if (column + 1 < dim) row[column + 1] = T{static_cast<uint16_t>(word >> 16)};
}

// Over the 4 lanes that share the rows of a fragment.
KPT_DEVICE float QuadSum(float x) {
  x += ShuffleXor(x, 1);
  return x + ShuffleXor(x, 2);
}
KPT_DEVICE float QuadMax(float x) {
  x = MaxOf(x, ShuffleXor(x, 1));
  return MaxOf(x, ShuffleXor(x, 2));
}

}  // namespace kpt::gpu

#endif  // KPT_KERNELS_ATTENTION_CUDA_TILES_H_

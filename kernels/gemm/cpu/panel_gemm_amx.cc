// bf16 matrix products on AMX tiles.
//
// A tile product needs one operand as rows (A: 16 rows x 32 k, in place from any dense rows) and
// the other packed by k pairs (B: a 16 x 16 dword block of a panel group). Either of x and weight
// can take either part, so the side with fewer rows is packed and the larger one is read where it
// lies: with few rows of x the weight is never rearranged, it streams from memory straight into
// tiles
// ("swapped": the tiles then hold y transposed). Panels packed beforehand are always the B side.
//
// Every sum is accumulated in the same order on each of these ways (k pairs ascending; leaving and
// re-entering the tile between K chunks is exact), so the choice does not show in the result.
#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "kernels/base/amx_tiles.h"
#include "kernels/base/parallel_for.h"
#include "kernels/base/scratch.h"
#include "kernels/gemm/cpu/pack_avx512.h"
#include "kernels/gemm/cpu/panel_gemm.h"

namespace kpt::cpu::amx {
namespace {

constexpr int64_t kTile = 16;       // rows of a tile, and dwords in a tile row
constexpr int64_t kStepBytes = 64;  // bytes of a row that one tile product takes: 32 k
constexpr int64_t kTileBytes = 1024;
constexpr int64_t kTilesInBlock = 4;       // accumulators: a block is 2x2, 4x1 or 1x4 tiles
constexpr int64_t kChunkSteps = 64;        // K chunk: 2048 k
constexpr int64_t kColumnBytes = 1 << 20;  // packed columns that stay in the L2 cache
constexpr int64_t kRowBytes = 512 << 10;   // rows that stay there beside them
constexpr int64_t kPassRowTiles = 256;     // rows of one pass: bounds the scratch memory

constexpr int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t RoundUp(int64_t a, int64_t b) { return CeilDiv(a, b) * b; }
inline int64_t Min(int64_t a, int64_t b) { return a < b ? a : b; }

// One operand as tiles of 16 rows. A gated weight alternates gate and up tiles, so that both halves
// of a feature meet in one block.
struct Side {
  const char* data = nullptr;
  int64_t stride = 0;  // bytes
  int64_t rows = 0;    // features or rows of x; of a gated weight, half of its rows
  bool paired = false;
  int64_t up = 0;           // paired: rows from the first half to the second
  bool transposed = false;  // stored [k, rows]; only to be packed, and not paired

  int64_t tiles() const { return CeilDiv(rows, kTile) * (paired ? 2 : 1); }
  int64_t FirstRow(int64_t tile) const {  // within one half
    return (paired ? tile / 2 : tile) * kTile;
  }
  const char* Data(int64_t tile) const {
    if (transposed) return data + FirstRow(tile) * 2;
    const int64_t row = FirstRow(tile) + (paired && tile % 2 != 0 ? up : 0);
    return data + row * stride;
  }
  int64_t Valid(int64_t tile) const { return Min(kTile, rows - FirstRow(tile)); }
};

// Where the A tiles of 16 rows lie: whole steps at `data`, the last partial one zero filled.
struct RowTile {
  const char* data;
  int64_t stride;
  const char* tail;
};

struct Depth {
  int64_t whole;  // steps that lie in the rows in full
  bool tail;      // one more, partial
  int64_t steps() const { return whole + (tail ? 1 : 0); }
};

// A slice of K: steps [begin, begin + whole) and perhaps the tail, which ends the last slice.
struct Chunk {
  int64_t begin;
  int64_t whole;
  bool tail;
  bool first;
  bool last;
};

// B tiles of one group: `ld` bytes between dword rows.
struct Columns {
  const char* const* groups;
  int64_t ld;
};

// The three block shapes. c: [16 rows_tiles][16 column_tiles] floats, dense.
inline void Multiply2x2(const RowTile* a, const Columns& b, const Chunk& k, float* c) {
  if (k.first) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  } else {
    _tile_loadd(0, c, 128);
    _tile_loadd(1, c + 16, 128);
    _tile_loadd(2, c + 512, 128);
    _tile_loadd(3, c + 528, 128);
  }
  const int64_t b_step = kTile * b.ld;
  const char* b0 = b.groups[0];
  const char* b1 = b.groups[1];
  const auto step = [&](const char* a0, int64_t lda0, const char* a1, int64_t lda1)
                        __attribute__((always_inline)) {
                          _tile_loadd(4, a0, lda0);
                          _tile_loadd(6, b0, b.ld);
                          _tile_dpbf16ps(0, 4, 6);
                          _tile_loadd(7, b1, b.ld);
                          _tile_dpbf16ps(1, 4, 7);
                          _tile_loadd(5, a1, lda1);
                          _tile_dpbf16ps(2, 5, 6);
                          _tile_dpbf16ps(3, 5, 7);
                          b0 += b_step;
                          b1 += b_step;
                        };
  const char* a0 = a[0].data + k.begin * kStepBytes;
  const char* a1 = a[1].data + k.begin * kStepBytes;
  const int64_t lda0 = a[0].stride;
  const int64_t lda1 = a[1].stride;
  for (int64_t s = 0; s < k.whole; ++s) {
    step(a0, lda0, a1, lda1);
    a0 += kStepBytes;
    a1 += kStepBytes;
  }
  if (k.tail) step(a[0].tail, kStepBytes, a[1].tail, kStepBytes);
  _tile_stored(0, c, 128);
  _tile_stored(1, c + 16, 128);
  _tile_stored(2, c + 512, 128);
  _tile_stored(3, c + 528, 128);
}

inline void Multiply4x1(const RowTile* a, const Columns& b, const Chunk& k, float* c) {
  if (k.first) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  } else {
    _tile_loadd(0, c, 64);
    _tile_loadd(1, c + 256, 64);
    _tile_loadd(2, c + 512, 64);
    _tile_loadd(3, c + 768, 64);
  }
  const char* b0 = b.groups[0];
  const auto step = [&](const char* a0, const char* a1, const char* a2, const char* a3,
                        const int64_t* lda) __attribute__((always_inline)) {
    _tile_loadd(7, b0, b.ld);
    _tile_loadd(4, a0, lda[0]);
    _tile_dpbf16ps(0, 4, 7);
    _tile_loadd(5, a1, lda[1]);
    _tile_dpbf16ps(1, 5, 7);
    _tile_loadd(6, a2, lda[2]);
    _tile_dpbf16ps(2, 6, 7);
    _tile_loadd(4, a3, lda[3]);
    _tile_dpbf16ps(3, 4, 7);
    b0 += kTile * b.ld;
  };
  const int64_t lda[4] = {a[0].stride, a[1].stride, a[2].stride, a[3].stride};
  const int64_t end = (k.begin + k.whole) * kStepBytes;
  for (int64_t o = k.begin * kStepBytes; o < end; o += kStepBytes) {
    step(a[0].data + o, a[1].data + o, a[2].data + o, a[3].data + o, lda);
  }
  if (k.tail) {
    constexpr int64_t kTailStrides[4] = {kStepBytes, kStepBytes, kStepBytes, kStepBytes};
    step(a[0].tail, a[1].tail, a[2].tail, a[3].tail, kTailStrides);
  }
  _tile_stored(0, c, 64);
  _tile_stored(1, c + 256, 64);
  _tile_stored(2, c + 512, 64);
  _tile_stored(3, c + 768, 64);
}

inline void Multiply1x4(const RowTile* a, const Columns& b, const Chunk& k, float* c) {
  if (k.first) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  } else {
    _tile_loadd(0, c, 256);
    _tile_loadd(1, c + 16, 256);
    _tile_loadd(2, c + 32, 256);
    _tile_loadd(3, c + 48, 256);
  }
  const char* b0 = b.groups[0];
  const char* b1 = b.groups[1];
  const char* b2 = b.groups[2];
  const char* b3 = b.groups[3];
  int64_t o = 0;
  const auto step = [&](const char* a0, int64_t lda) __attribute__((always_inline)) {
    _tile_loadd(7, a0, lda);
    _tile_loadd(4, b0 + o, b.ld);
    _tile_dpbf16ps(0, 7, 4);
    _tile_loadd(5, b1 + o, b.ld);
    _tile_dpbf16ps(1, 7, 5);
    _tile_loadd(6, b2 + o, b.ld);
    _tile_dpbf16ps(2, 7, 6);
    _tile_loadd(4, b3 + o, b.ld);
    _tile_dpbf16ps(3, 7, 4);
    o += kTile * b.ld;
  };
  const char* a0 = a[0].data + k.begin * kStepBytes;
  for (int64_t s = 0; s < k.whole; ++s) step(a0 + s * kStepBytes, a[0].stride);
  if (k.tail) step(a[0].tail, kStepBytes);
  _tile_stored(0, c, 256);
  _tile_stored(1, c + 16, 256);
  _tile_stored(2, c + 32, 256);
  _tile_stored(3, c + 48, 256);
}

enum class Shape { k2x2, k4x1, k1x4 };

// What all threads share.
struct Plan {
  Side rows;
  Side cols;
  bool swapped;  // rows are the weight
  Shape shape;
  int64_t row_tiles_in_block;
  int64_t col_tiles_in_block;
  Depth depth;
  int64_t k_bytes;
  const char* packed;  // column groups packed beforehand, or null: each thread packs its own
  int64_t packed_ld;   // bytes
  bool packed_is_panels;
  const Epilogue* epilogue;

  int64_t row_blocks() const { return CeilDiv(rows.tiles(), row_tiles_in_block); }
  int64_t col_blocks() const { return CeilDiv(cols.tiles(), col_tiles_in_block); }
  int64_t k_chunks() const { return depth.steps() == 0 ? 1 : CeilDiv(depth.steps(), kChunkSteps); }
  int64_t chunk_steps() const { return CeilDiv(depth.steps(), k_chunks()); }
  Chunk GetChunk(int64_t i) const {
    const int64_t begin = i * chunk_steps();
    const int64_t end = Min(begin + chunk_steps(), depth.steps());
    const int64_t whole_end = Min(end, depth.whole);
    return {begin, whole_end > begin ? whole_end - begin : 0, end > depth.whole, i == 0,
            i + 1 == k_chunks()};
  }
  // Column blocks that fit the L2 cache over one K chunk, and row blocks likewise.
  int64_t cols_in_chunk() const {
    const int64_t bytes = (chunk_steps() + 1) * kTileBytes * col_tiles_in_block;
    const int64_t fit = kColumnBytes / bytes;
    return Min(fit > 0 ? fit : 1, col_blocks());
  }
  int64_t rows_in_chunk() const {
    const int64_t bytes = (chunk_steps() + 1) * kTileBytes * row_tiles_in_block;
    const int64_t fit = kRowBytes / bytes;
    return fit > 0 ? fit : 1;
  }
  int64_t rows_in_pass() const { return Min(kPassRowTiles / row_tiles_in_block, row_blocks()); }
};

// One thread's scratch, cut out of one buffer.
struct Workspace {
  float* sums;        // one block, or all blocks of a pass x column chunk
  float* transposed;  // one block
  RowTile* tiles;
  char* tails;
  char* edges;
  char* packed;
  const char** groups;

  // With base null it only counts.
  static int64_t Layout(const Plan& p, char* base, Workspace* w) {
    int64_t used = 0;
    const auto take = [&](int64_t bytes) {
      char* at = base != nullptr ? base + used : nullptr;
      used += RoundUp(bytes, 64);
      return at;
    };
    const int64_t tiles = p.rows_in_pass() * p.row_tiles_in_block;
    const int64_t groups = p.cols_in_chunk() * p.col_tiles_in_block;
    const int64_t blocks = p.k_chunks() > 1 ? p.rows_in_pass() * p.cols_in_chunk() : 1;
    w->sums = reinterpret_cast<float*>(take(blocks * kTilesInBlock * kTileBytes));
    w->transposed = reinterpret_cast<float*>(take(kTilesInBlock * kTileBytes));
    w->tiles = reinterpret_cast<RowTile*>(take(tiles * static_cast<int64_t>(sizeof(RowTile))));
    w->groups = reinterpret_cast<const char**>(take(groups * 8));
    w->tails = take(p.depth.tail ? tiles * kTileBytes : 0);
    w->edges = take(2 * p.depth.whole * kTileBytes);
    const bool packs = p.packed == nullptr || (p.packed_is_panels && p.cols.rows % kTile != 0);
    w->packed = take(packs ? groups * p.chunk_steps() * kTileBytes : 0);
    return RoundUp(used, 4096);
  }
};

// Descriptors of tiles [begin, end), repeated up to a whole block; copies what may not be read in
// place: the partial last step, and tiles with fewer than 16 rows.
void DescribeRows(const Plan& p, int64_t begin, int64_t end, const Workspace& w) {
  const int64_t whole_bytes = p.depth.whole * kStepBytes;
  const int64_t tail_bytes = p.k_bytes - whole_bytes;
  int64_t edges = 0;
  const int64_t tiles = Min(end, p.rows.tiles());
  for (int64_t t = begin; t < tiles; ++t) {
    RowTile& tile = w.tiles[t - begin];
    const int64_t valid = p.rows.Valid(t);
    tile = {p.rows.Data(t), p.rows.stride, w.tails + (t - begin) * kTileBytes};
    if (p.depth.tail) {
      char* tail = w.tails + (t - begin) * kTileBytes;
      for (int64_t r = 0; r < kTile; ++r) {
        const __m512i v = r < valid
                              ? LoadBytes(tile.data + r * tile.stride + whole_bytes, tail_bytes)
                              : _mm512_setzero_si512();
        _mm512_store_si512(tail + r * kStepBytes, v);
      }
    }
    if (valid < kTile) {
      char* edge = w.edges + edges++ * p.depth.whole * kTileBytes;
      for (int64_t r = 0; r < kTile; ++r) {
        char* row = edge + r * whole_bytes;
        if (r < valid) {
          std::memcpy(row, tile.data + r * tile.stride, static_cast<size_t>(whole_bytes));
        } else {
          std::memset(row, 0, static_cast<size_t>(whole_bytes));
        }
      }
      tile.data = edge;
      tile.stride = whole_bytes;
    }
  }
  for (int64_t t = tiles; t < end; ++t) w.tiles[t - begin] = w.tiles[tiles - 1 - begin];
}

// Dword column j of a panel weight, for gated weights whose up half starts within a group: copies
// 16 columns that lie in two groups.
void CopyPanelColumns(const char* panels, int64_t depth, int64_t column, int64_t valid,
                      int64_t first, int64_t count, char* dst) {
  const uint32_t* base = reinterpret_cast<const uint32_t*>(panels);
  uint32_t* out = reinterpret_cast<uint32_t*>(dst);
  for (int64_t j = 0; j < kTile; ++j) {
    const int64_t col = column + j;
    const uint32_t* src = base + col / kPanelCols * PanelDwords(depth) + col % kPanelCols;
    for (int64_t d = 0; d < count; ++d) {
      out[d * kTile + j] = j < valid ? src[(first + d) * kPanelCols] : 0;
    }
  }
}

// B tiles of column tiles [begin, end) over one K chunk.
Columns GetColumns(const Plan& p, int64_t begin, int64_t end, const Chunk& k, const Workspace& w) {
  const int64_t steps = k.whole + (k.tail ? 1 : 0);
  const int64_t total = p.depth.steps();
  const int64_t tiles = Min(end, p.cols.tiles());
  int64_t ld = p.packed != nullptr ? p.packed_ld : kStepBytes;
  const bool copies = p.packed_is_panels && p.cols.paired && p.cols.rows % kTile != 0;
  if (copies) ld = kStepBytes;
  for (int64_t t = begin; t < tiles; ++t) {
    char* mine = w.packed + (t - begin) * steps * kTileBytes;
    const int64_t column = p.cols.FirstRow(t) + (p.cols.paired && t % 2 != 0 ? p.cols.rows : 0);
    if (copies) {
      CopyPanelColumns(p.packed, total * kTile, column, p.cols.Valid(t), k.begin * kTile,
                       steps * kTile, mine);
      w.groups[t - begin] = mine;
    } else if (p.packed_is_panels) {
      w.groups[t - begin] =
          p.packed + (GroupOffset(column, total * kTile) + k.begin * kTile * kPanelCols) * 4;
    } else if (p.packed != nullptr) {
      w.groups[t - begin] = p.packed + (t * total + k.begin) * kTileBytes;
    } else if (p.cols.transposed) {
      const int64_t first = k.begin * kStepBytes / 2;  // in k
      PackRowPairs(p.cols.Data(t) + first * p.cols.stride, p.cols.stride, p.cols.Valid(t),
                   p.k_bytes / 2 - first, steps * kTile, reinterpret_cast<uint32_t*>(mine), kTile);
      w.groups[t - begin] = mine;
    } else {
      PackGroup(p.cols.Data(t) + k.begin * kStepBytes, p.cols.stride, p.cols.Valid(t),
                p.k_bytes - k.begin * kStepBytes, steps * kTile, reinterpret_cast<uint32_t*>(mine),
                kTile);
      w.groups[t - begin] = mine;
    }
  }
  for (int64_t t = tiles; t < end; ++t) w.groups[t - begin] = w.groups[tiles - 1 - begin];
  return {w.groups, ld};
}

// A finished block of sums: row tile and column tile numbers of its corner.
void Emit(const Plan& p, const float* sums, int64_t row_tile, int64_t col_tile, float* transposed) {
  const Epilogue& e = *p.epilogue;
  int64_t row_tiles = p.row_tiles_in_block;
  int64_t col_tiles = p.col_tiles_in_block;
  const float* c = sums;
  int64_t ld = col_tiles * kTile;
  if (p.swapped) {
    const int64_t ldt = row_tiles * kTile;
    for (int64_t i = 0; i < row_tiles; ++i) {
      for (int64_t j = 0; j < col_tiles; ++j) {
        const float* from = sums + i * kTile * ld + j * kTile;
        float* to = transposed + j * kTile * ldt + i * kTile;
        Transpose16x16(
            [&](int r) __attribute__((always_inline)) { return _mm512_load_si512(from + r * ld); },
            [&](int r, __m512i v)
                __attribute__((always_inline)) { _mm512_store_si512(to + r * ldt, v); });
      }
    }
    c = transposed;
    ld = ldt;
    row_tiles = p.col_tiles_in_block;
    col_tiles = p.row_tiles_in_block;
    const int64_t t = row_tile;
    row_tile = col_tile;
    col_tile = t;
  }
  const Side& x = p.swapped ? p.cols : p.rows;
  const int64_t m0 = row_tile * kTile;
  const int64_t rows = Min(row_tiles * kTile, x.rows - m0);
  if (!IsGated(e.activation)) {
    const int64_t n0 = col_tile * kTile;
    avx512::EmitRows(e, c, nullptr, ld, m0, rows, n0, Min(col_tiles * kTile, e.n - n0));
    return;
  }
  for (int64_t j = 0; j < col_tiles; j += 2) {
    const int64_t n0 = (col_tile + j) / 2 * kTile;
    if (n0 >= e.n) break;
    avx512::EmitRows(e, c + j * kTile, c + (j + 1) * kTile, ld, m0, rows, n0, Min(kTile, e.n - n0));
  }
}

// Row blocks [row_begin, row_end) x column blocks [col_begin, col_end).
void Run(const Plan& p, int64_t row_begin, int64_t row_end, int64_t col_begin, int64_t col_end,
         const Workspace& w) {
  const bool keep = p.k_chunks() > 1;
  const int64_t row_tiles = p.row_tiles_in_block;
  const int64_t col_tiles = p.col_tiles_in_block;
  for (int64_t r0 = row_begin; r0 < row_end; r0 += p.rows_in_pass()) {
    const int64_t r1 = Min(r0 + p.rows_in_pass(), row_end);
    DescribeRows(p, r0 * row_tiles, r1 * row_tiles, w);
    for (int64_t c0 = col_begin; c0 < col_end; c0 += p.cols_in_chunk()) {
      const int64_t c1 = Min(c0 + p.cols_in_chunk(), col_end);
      for (int64_t i = 0; i < p.k_chunks(); ++i) {
        const Chunk k = p.GetChunk(i);
        const Columns columns = GetColumns(p, c0 * col_tiles, c1 * col_tiles, k, w);
        TileFence();
        for (int64_t q0 = r0; q0 < r1; q0 += p.rows_in_chunk()) {
          const int64_t q1 = Min(q0 + p.rows_in_chunk(), r1);
          for (int64_t c = c0; c < c1; ++c) {
            const Columns b = {columns.groups + (c - c0) * col_tiles, columns.ld};
            for (int64_t r = q0; r < q1; ++r) {
              const int64_t block = keep ? (r - r0) * (c1 - c0) + (c - c0) : 0;
              float* sums = w.sums + block * kTilesInBlock * kTile * kTile;
              const RowTile* a = w.tiles + (r - r0) * row_tiles;
              if (p.shape == Shape::k2x2) {
                Multiply2x2(a, b, k, sums);
              } else if (p.shape == Shape::k4x1) {
                Multiply4x1(a, b, k, sums);
              } else {
                Multiply1x4(a, b, k, sums);
              }
              if (k.last) {
                TileFence();
                Emit(p, sums, r * row_tiles, c * col_tiles, w.transposed);
                TileFence();
              }
            }
          }
        }
      }
    }
  }
}

// How many ways to cut the rows; the columns are cut threads / that ways. Least time of the slowest
// thread, where computing a block takes about 16 cycles a tile product and a core reads about 6
// bytes a cycle from beyond its L2 cache; packing a column costs about as much as reading it twice.
int RowCuts(const Plan& p, int threads) {
  int best = 1;
  double best_cost = 0;
  for (int cuts = 1; cuts <= threads; ++cuts) {
    if (threads % cuts != 0) continue;
    const double rows = static_cast<double>(CeilDiv(p.row_blocks(), cuts));
    const double cols = static_cast<double>(CeilDiv(p.col_blocks(), threads / cuts));
    const double steps = static_cast<double>(p.depth.steps());
    const double tile_read = static_cast<double>(kTileBytes) / 6 * steps;
    const double read =
        rows * static_cast<double>(p.row_tiles_in_block) +
        cols * static_cast<double>(p.col_tiles_in_block) * (p.packed != nullptr ? 1.0 : 3.0);
    const double cost = rows * cols * 64 * steps + tile_read * read;
    if (cuts == 1 || cost < best_cost) {
      best = cuts;
      best_cost = cost;
    }
  }
  return best;
}

// Packs the whole column side, in parallel over (tile, slice of K).
void PackColumns(int num_threads, const Plan& p, char* packed) {
  constexpr int64_t kSlice = 16;  // steps
  const int64_t steps = p.depth.steps();
  const int64_t slices = CeilDiv(steps, kSlice);
  ParallelFor(num_threads, p.cols.tiles() * slices, 8, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t t = i / slices;
      const int64_t first = i % slices * kSlice;
      const int64_t count = Min(kSlice, steps - first);
      PackGroup(p.cols.Data(t) + first * kStepBytes, p.cols.stride, p.cols.Valid(t),
                p.k_bytes - first * kStepBytes, count * kTile,
                reinterpret_cast<uint32_t*>(packed + (t * steps + first) * kTileBytes), kTile);
    }
  });
}

}  // namespace

bool Bf16Gemm(int num_threads, const PanelGemm& g) {
  if (g.m == 0 || g.epilogue.n == 0) return true;
  const Side x = {static_cast<const char*>(g.x), g.ldx * 2, g.m, false, 0, false};
  const Side weight = {static_cast<const char*>(g.weight),
                       g.ldw * 2,
                       g.epilogue.n,
                       g.gated(),
                       g.epilogue.up_columns(),
                       g.weight_transposed};
  Plan p = {};
  p.swapped = g.panels == nullptr && !g.weight_transposed && g.m <= weight.tiles() * kTile;
  p.rows = p.swapped ? weight : x;
  p.cols = p.swapped ? x : weight;
  p.k_bytes = g.k * 2;
  p.depth = {p.k_bytes / kStepBytes, p.k_bytes % kStepBytes != 0};
  p.epilogue = &g.epilogue;
  p.shape = p.cols.tiles() == 1 ? Shape::k4x1 : p.rows.tiles() == 1 ? Shape::k1x4 : Shape::k2x2;
  p.row_tiles_in_block = p.shape == Shape::k2x2 ? 2 : p.shape == Shape::k4x1 ? 4 : 1;
  p.col_tiles_in_block = kTilesInBlock / p.row_tiles_in_block;
  p.packed_ld = kStepBytes;
  if (g.panels != nullptr) {
    p.packed = reinterpret_cast<const char*>(g.panels);
    p.packed_ld = kPanelRowBytes;
    p.packed_is_panels = true;
  } else if (p.swapped) {
    char* packed = static_cast<char*>(
        Scratch(1, static_cast<size_t>((p.cols.tiles() * p.depth.steps() + 1) * kTileBytes)));
    if (packed == nullptr) return false;
    p.packed = packed;
  }
  const int64_t most = p.row_blocks() * p.col_blocks();
  const int threads = static_cast<int>(Min(num_threads, most));
  Workspace unused;
  const int64_t bytes = Workspace::Layout(p, nullptr, &unused);
  char* scratch = static_cast<char*>(Scratch(0, static_cast<size_t>(bytes * threads)));
  if (scratch == nullptr) return false;
  if (p.swapped) PackColumns(num_threads, p, const_cast<char*>(p.packed));

  Parallel(threads, [&](int thread, int all) {
    const int row_cuts = RowCuts(p, all);
    const int col_cuts = all / row_cuts;
    const int64_t ri = thread % row_cuts;
    const int64_t ci = thread / row_cuts;
    Workspace w;
    Workspace::Layout(p, scratch + thread * bytes, &w);
    const AmxTiles tiles;
    Run(p, p.row_blocks() * ri / row_cuts, p.row_blocks() * (ri + 1) / row_cuts,
        p.col_blocks() * ci / col_cuts, p.col_blocks() * (ci + 1) / col_cuts, w);
  });
  return true;
}

}  // namespace kpt::cpu::amx

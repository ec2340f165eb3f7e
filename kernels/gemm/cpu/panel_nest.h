// The loop nest around a register tile: y = epilogue(x * weight^T) panel by panel. One nest for
// every tile that multiplies dwords of x, read in place and broadcast, by panel rows of 64 columns.
//
// A thread owns a range of rows and a range of units. A unit is what one pass over x computes: 64
// columns of the product, as four groups of 16; a gated unit is 32 features as gate, up, gate, up.
// For each unit, K is cut into chunks whose panel stays in the L2 cache; a panel is packed there,
// or read where it was packed before, and all rows of the thread pass over it. While they do, the
// source of the next panel is prefetched at an even pace, so that the memory works all the time.
//
// Included by files compiled for one instruction set, with its namespace in KPT_SIMD_NS.
#ifndef KPT_KERNELS_GEMM_CPU_PANEL_NEST_H_
#define KPT_KERNELS_GEMM_CPU_PANEL_NEST_H_

#include <cstdint>

#include "kernels/base/parallel_for.h"
#include "kernels/base/scratch.h"
#include "kernels/gemm/cpu/panel_gemm.h"

namespace kpt::cpu::KPT_SIMD_NS {
namespace {

// Prefetches `step` bytes (a credit of whole lines) every four k groups.
struct PacedPrefetch {
  const char* at = nullptr;
  int64_t step = 0;
  int64_t credit = 0;

  [[gnu::always_inline]] inline void Tick() {
    credit += step;
    while (credit >= 64) {
      __builtin_prefetch(at, 0, 2);
      at += 64;
      credit -= 64;
    }
  }
};

// Rows of x up to this many dwords end before the hardware has seen that they are streams: the tile
// prefetches those of the next block itself.
constexpr int64_t kShortRow = 1024;

// One cache line of each of the kRows rows that follow, where k is at the start of a line.
template <int kRows>
[[gnu::always_inline]] inline void PrefetchNextRows(const char* a, int64_t lda, int64_t k) {
  if (k % 16 != 0) return;
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) __builtin_prefetch(a + (kRows + i) * lda + k * 4, 0, 2);
}

constexpr int64_t kNestChunk = 2048;  // dwords of K in a chunk: a panel of 512 KiB
constexpr int kNestMaxRows = 6;       // rows of the register tile
constexpr int64_t kNestGroups = kPanelCols / kPanelGroup;

// x as the tile reads it: rows of dwords in place, and where K ends within a dword, the last dword
// of each row apart.
struct NestRows {
  const char* data = nullptr;
  int64_t stride = 0;  // bytes
  int64_t whole = 0;   // dwords that lie in the rows in full
  const uint32_t* last = nullptr;
  int64_t dwords() const { return whole + (last != nullptr ? 1 : 0); }
};

// One slice of K: dwords [begin, begin + count) of the panel, and where x has them.
struct NestChunk {
  int64_t begin;
  int64_t count;
  bool in_place;
  bool first;
  bool last;
};

inline int64_t NestChunks(const NestRows& x) {
  const int64_t whole = (x.whole + kNestChunk - 1) / kNestChunk;
  const int64_t all = whole + (x.last != nullptr ? 1 : 0);
  return all > 0 ? all : 1;
}

inline NestChunk GetNestChunk(const NestRows& x, int64_t i) {
  const int64_t whole = (x.whole + kNestChunk - 1) / kNestChunk;
  const int64_t all = NestChunks(x);
  if (whole == 0 || i >= whole) return {x.whole, x.last != nullptr ? 1 : 0, false, i == 0, true};
  // Even chunks, so that none is short.
  const int64_t begin = x.whole * i / whole;
  const int64_t end = x.whole * (i + 1) / whole;
  return {begin, end - begin, true, i == 0, i + 1 == all};
}

// The weight as units.
template <class Tile>
class NestColumns {
 public:
  NestColumns(const PanelGemm& g, int64_t depth) : g_(g), depth_(depth) {}

  int64_t features() const { return g_.gated() ? kPanelCols / 2 : kPanelCols; }
  int64_t units() const { return (g_.epilogue.n + features() - 1) / features(); }
  bool packs() const {
    return g_.panels == nullptr || (g_.gated() && g_.epilogue.up_columns() % kPanelGroup != 0);
  }

  // Points groups[i] at the rows of group i over the chunk (leading dimension kPanelCols).
  void Get(int64_t unit, const NestChunk& k, uint32_t* buffer, const uint32_t** groups) const {
    if (g_.weight_transposed) return GetTransposed(unit, k, buffer, groups);
    for (int64_t i = 0; i < kNestGroups; ++i) {
      const int64_t pair = g_.gated() ? i / 2 : i;
      const int64_t feature = unit * features() + pair * kPanelGroup;
      const int64_t left = g_.epilogue.n - feature;
      const int64_t valid = left < 0 ? 0 : left < kPanelGroup ? left : kPanelGroup;
      const int64_t column = feature + (g_.gated() && i % 2 != 0 ? g_.epilogue.up_columns() : 0);
      uint32_t* mine = buffer + i * kPanelGroup;
      groups[i] = mine;
      if (valid == 0) {
        // Any readable rows do: nothing of them is kept.
        groups[i] = groups[0];
      } else if (g_.panels == nullptr) {
        Tile::Pack(g_, column, valid, k.begin, k.count, mine);
      } else if (column % kPanelGroup == 0) {
        groups[i] = g_.panels + GroupOffset(column, depth_) + k.begin * kPanelCols;
      } else {
        CopyColumns(column, valid, k, mine);
      }
    }
  }

  // The bytes that the unit will read, to be prefetched; of a gated weight the gate half, of a
  // transposed one none (its rows are short and far apart: packing prefetches them itself).
  const char* Source(int64_t unit, int64_t* bytes) const {
    *bytes = 0;
    if (g_.weight_transposed) return nullptr;
    const int64_t column = unit * features();
    if (g_.panels != nullptr) {
      *bytes = PanelDwords(depth_) * 4;
      return reinterpret_cast<const char*>(g_.panels + column / kPanelCols * PanelDwords(depth_));
    }
    const int64_t row = g_.ldw * g_.weight_item();
    *bytes = features() * row;
    return static_cast<const char*>(g_.weight) + column * row;
  }

 private:
  void GetTransposed(int64_t unit, const NestChunk& k, uint32_t* buffer,
                     const uint32_t** groups) const {
    const int64_t column = unit * kPanelCols;
    const int64_t left = g_.epilogue.n - column;
    const int64_t valid = left < kPanelCols ? left : kPanelCols;
    Tile::PackTransposed(g_, column, valid, k.begin, k.count, buffer);
    for (int64_t i = 0; i < kNestGroups; ++i) {
      // Any readable rows do for a group of no columns: nothing of them is kept.
      groups[i] = buffer + (i * kPanelGroup < valid ? i * kPanelGroup : 0);
    }
  }

  // The up half of a gated weight may start within a group.
  void CopyColumns(int64_t column, int64_t valid, const NestChunk& k, uint32_t* to) const {
    for (int64_t j = 0; j < kPanelGroup; ++j) {
      const int64_t c = column + j;
      const uint32_t* from =
          g_.panels + c / kPanelCols * PanelDwords(depth_) + c % kPanelCols + k.begin * kPanelCols;
      for (int64_t d = 0; d < k.count; ++d) {
        to[d * kPanelCols + j] = j < valid ? from[d * kPanelCols] : 0;
      }
    }
  }

  const PanelGemm& g_;
  int64_t depth_;
};

inline void EmitUnit(const Epilogue& e, const float* sums, int64_t m0, int64_t rows, int64_t unit) {
  const auto least = [](int64_t a, int64_t b) { return a < b ? a : b; };
  if (!IsGated(e.activation)) {
    const int64_t n0 = unit * kPanelCols;
    KPT_NEST_EMIT(e, sums, nullptr, kPanelCols, m0, rows, n0, least(kPanelCols, e.n - n0));
    return;
  }
  for (int64_t pair = 0; pair < 2; ++pair) {
    const int64_t n0 = unit * (kPanelCols / 2) + pair * kPanelGroup;
    if (n0 >= e.n) break;
    const float* gate = sums + pair * 2 * kPanelGroup;
    KPT_NEST_EMIT(e, gate, gate + kPanelGroup, kPanelCols, m0, rows, n0,
                  least(kPanelGroup, e.n - n0));
  }
}

// Rows [m0, m1) x units [u0, u1). buffer: a panel chunk; sums: [rows or kNestMaxRows][64].
template <class Tile>
void RunNest(const PanelGemm& g, const NestRows& x, const NestColumns<Tile>& columns, int64_t m0,
             int64_t m1, int64_t u0, int64_t u1, uint32_t* buffer, float* sums) {
  const int64_t rows = m1 - m0;
  const int64_t blocks = (rows + kNestMaxRows - 1) / kNestMaxRows;
  const int64_t chunks = NestChunks(x);
  for (int64_t u = u0; u < u1; ++u) {
    PacedPrefetch prefetch;
    const int64_t ticks = blocks * (x.dwords() / 4);
    if (u + 1 < u1 && ticks > 0) {
      int64_t bytes = 0;
      prefetch.at = columns.Source(u + 1, &bytes);
      prefetch.step = bytes > 0 ? bytes / ticks + 1 : 0;
    }
    for (int64_t i = 0; i < chunks; ++i) {
      const NestChunk k = GetNestChunk(x, i);
      const uint32_t* groups[kNestGroups];
      columns.Get(u, k, buffer, groups);
      for (int64_t b = 0; b < blocks; ++b) {
        const int64_t r = rows * b / blocks;
        const int64_t count = rows * (b + 1) / blocks - r;
        float* c = chunks > 1 ? sums + r * kPanelCols : sums;
        const char* a = k.in_place ? x.data + (m0 + r) * x.stride + k.begin * 4
                                   : reinterpret_cast<const char*>(x.last + m0 + r);
        Tile::Multiply(static_cast<int>(count), k.count, a, k.in_place ? x.stride : 4, groups, c,
                       !k.first, &prefetch);
        if (k.last) EmitUnit(g.epilogue, c, m0 + r, count, u);
      }
    }
  }
}

// How many ways to cut the rows; the units are cut threads / that ways. Least work of the slowest
// thread, where packing a unit costs about as much as multiplying 16 rows by it.
inline int NestRowCuts(int threads, int64_t rows, int64_t units) {
  int best = 1;
  int64_t best_cost = 0;
  for (int cuts = 1; cuts <= threads; ++cuts) {
    if (threads % cuts != 0) continue;
    const int64_t u = (units + threads / cuts - 1) / (threads / cuts);
    const int64_t cost = u * ((rows + cuts - 1) / cuts + 16);
    if (cuts == 1 || cost < best_cost) {
      best = cuts;
      best_cost = cost;
    }
  }
  return best;
}

// Runs all of rows [0, rows) of x against the weight; y rows start at g.epilogue.y. Uses scratch
// slot 0.
template <class Tile>
bool RunPanelGemm(int num_threads, const PanelGemm& g, const NestRows& x, int64_t rows) {
  const NestColumns<Tile> columns(g, PanelDepth(g.k, Tile::kPerDword));
  const int64_t units = columns.units();
  if (rows == 0 || units == 0) return true;
  const int64_t chunks = NestChunks(x);
  const int64_t depth = x.whole < kNestChunk ? x.whole + 1 : kNestChunk + 1;
  const int64_t panel = columns.packs() ? (depth + 15) / 16 * 16 * kPanelCols * 4 : 0;
  const int64_t sums = (chunks > 1 ? rows : kNestMaxRows) * kPanelCols * 4;
  const int64_t bytes = (panel + sums + 4095) / 4096 * 4096;
  char* scratch = static_cast<char*>(Scratch(0, static_cast<size_t>(bytes * num_threads)));
  if (scratch == nullptr) return false;
  Parallel(num_threads, [&](int thread, int all) {
    const int cuts = NestRowCuts(all, rows, units);
    const int64_t ri = thread % cuts;
    const int64_t ui = thread / cuts;
    const int64_t unit_cuts = all / cuts;
    char* mine = scratch + thread * bytes;
    RunNest<Tile>(g, x, columns, rows * ri / cuts, rows * (ri + 1) / cuts, units * ui / unit_cuts,
                  units * (ui + 1) / unit_cuts, reinterpret_cast<uint32_t*>(mine),
                  reinterpret_cast<float*>(mine + panel));
  });
  return true;
}

}  // namespace
}  // namespace kpt::cpu::KPT_SIMD_NS

#endif  // KPT_KERNELS_GEMM_CPU_PANEL_NEST_H_

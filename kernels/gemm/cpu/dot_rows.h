// Small M, weights as stored: vectors run along K, one accumulator per (weight row, row of x), one
// reduction per output. Nothing of the weight is packed, it streams through once. The reduction
// costs about 3 M N instructions and packing about N K / 8, so this wins while M is below about K
// / 64.
//
// A Dot type gives: kStep (k elements of a vector), kMaxRows (rows of x in the register tile), Acc,
// Vec, Zero, LoadX, LoadW, LoadWSome (n < kStep, zero filled), MulAdd, and StoreSums (four
// accumulators to four floats).
//
// Included by files compiled for one instruction set, with its namespace in KPT_SIMD_NS.
#ifndef KPT_KERNELS_GEMM_CPU_DOT_ROWS_H_
#define KPT_KERNELS_GEMM_CPU_DOT_ROWS_H_

#include <cstdint>

#include "kernels/base/parallel_for.h"
#include "kernels/base/scratch.h"
#include "kernels/gemm/cpu/panel_gemm.h"

namespace kpt::cpu::KPT_SIMD_NS {
namespace {

constexpr int64_t kDotRows = 4;  // weight rows of the register tile

// The weight rows [begin, end) of the tile whose successors, `distance` bytes on, a block
// prefetches: the blocks of rows of x that pass over a tile share its rows, so that the memory
// works evenly.
struct DotPrefetch {
  int begin;
  int end;
  int64_t distance;
};

// Four weight rows x kM rows of x. x: [steps][m_all] vectors, already at the first row of the
// block. `tail`: k elements of a last partial step.
template <class Dot, int kM>
void DotTile(const char* const* w, int64_t steps, int64_t tail, const char* x, int64_t m_all,
             float* sums, int64_t ld, const DotPrefetch& ahead) {
  typename Dot::Acc acc[kM][kDotRows];
#pragma GCC unroll 8
  for (int m = 0; m < kM; ++m) {
#pragma GCC unroll 4
    for (int r = 0; r < kDotRows; ++r) acc[m][r] = Dot::Zero();
  }
  const int64_t x_step = m_all * Dot::kVecBytes;
  constexpr int64_t kWBytes = Dot::kStep * Dot::kElementBytes;
  for (int64_t s = 0; s < steps; ++s) {
    for (int r = ahead.begin; r < ahead.end; ++r) {
      __builtin_prefetch(w[r] + s * kWBytes + ahead.distance, 0, 2);
    }
    typename Dot::Vec v[kDotRows];
#pragma GCC unroll 4
    for (int r = 0; r < kDotRows; ++r) v[r] = Dot::LoadW(w[r] + s * kWBytes);
#pragma GCC unroll 8
    for (int m = 0; m < kM; ++m) {
      const typename Dot::Vec xv = Dot::LoadX(x + m * Dot::kVecBytes);
#pragma GCC unroll 4
      for (int r = 0; r < kDotRows; ++r) acc[m][r] = Dot::MulAdd(xv, v[r], acc[m][r]);
    }
    x += x_step;
  }
  if (tail > 0) {
#pragma GCC unroll 4
    for (int r = 0; r < kDotRows; ++r) {
      const typename Dot::Vec v = Dot::LoadWSome(w[r] + steps * kWBytes, tail);
#pragma GCC unroll 8
      for (int m = 0; m < kM; ++m) {
        acc[m][r] = Dot::MulAdd(Dot::LoadX(x + m * Dot::kVecBytes), v, acc[m][r]);
      }
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < kM; ++m) Dot::StoreSums(acc[m], sums + m * ld);
}

template <class Dot>
void DotTileOf(int64_t count, const char* const* w, int64_t steps, int64_t tail, const char* x,
               int64_t m_all, float* sums, int64_t ld, const DotPrefetch& ahead) {
  switch (count) {
    case 1:
      return DotTile<Dot, 1>(w, steps, tail, x, m_all, sums, ld, ahead);
    case 2:
      return DotTile<Dot, 2>(w, steps, tail, x, m_all, sums, ld, ahead);
  }
  if constexpr (Dot::kMaxRows > 2) {
    switch (count) {
      case 3:
        return DotTile<Dot, 3>(w, steps, tail, x, m_all, sums, ld, ahead);
      case 4:
        return DotTile<Dot, 4>(w, steps, tail, x, m_all, sums, ld, ahead);
      case 5:
        return DotTile<Dot, 5>(w, steps, tail, x, m_all, sums, ld, ahead);
      case 6:
        return DotTile<Dot, 6>(w, steps, tail, x, m_all, sums, ld, ahead);
    }
  }
}

// y for features [n0, n1) (n0 a multiple of 16). x: packed as DotTile wants it; sums: [2][m][16].
template <class Dot>
void RunDotRows(const PanelGemm& g, const char* x, int64_t n0, int64_t n1, float* sums) {
  constexpr int64_t kStrip = kPanelGroup;
  const int64_t stride = g.ldw * Dot::kElementBytes;
  const int64_t steps = g.k / Dot::kStep;
  const int64_t tail = g.k % Dot::kStep;
  const int64_t blocks = (g.m + Dot::kMaxRows - 1) / Dot::kMaxRows;
  const char* weight = static_cast<const char*>(g.weight);
  const int halves = g.gated() ? 2 : 1;
  for (int64_t n = n0; n < n1; n += kStrip) {
    const int64_t valid = n1 - n < kStrip ? n1 - n : kStrip;
    for (int half = 0; half < halves; ++half) {
      float* out = sums + half * g.m * kStrip;
      for (int64_t q = 0; q < valid; q += kDotRows) {
        const char* w[kDotRows];
        for (int64_t r = 0; r < kDotRows; ++r) {  // the last rows are repeated, their sums unused
          const int64_t row =
              n + (q + r < valid ? q + r : valid - 1) + half * g.epilogue.up_columns();
          w[r] = weight + row * stride;
        }
        for (int64_t b = 0; b < blocks; ++b) {
          // Two tiles ahead: near enough to stay in the cache, far enough for the memory.
          const DotPrefetch ahead = {static_cast<int>(kDotRows * b / blocks),
                                     static_cast<int>(kDotRows * (b + 1) / blocks),
                                     2 * kDotRows * stride};
          const int64_t m0 = g.m * b / blocks;
          const int64_t count = g.m * (b + 1) / blocks - m0;
          DotTileOf<Dot>(count, w, steps, tail, x + m0 * Dot::kVecBytes, g.m, out + m0 * kStrip + q,
                         kStrip, ahead);
        }
      }
    }
    KPT_NEST_EMIT(g.epilogue, sums, sums + g.m * kStrip, kStrip, 0, g.m, n, valid);
  }
}

// pack_x(dst) writes x as [steps, and one more where K has a tail][m] vectors, zero filled.
template <class Dot, class PackX>
bool DotRowsGemm(int num_threads, const PanelGemm& g, const PackX& pack_x) {
  if (g.m == 0 || g.epilogue.n == 0) return true;
  const int64_t vectors = (g.k + Dot::kStep - 1) / Dot::kStep * g.m;
  const int64_t x_bytes = (vectors + 1) * Dot::kVecBytes;
  const int64_t sums_bytes = (2 * g.m * kPanelGroup * 4 + 4095) / 4096 * 4096;
  char* x = static_cast<char*>(Scratch(1, static_cast<size_t>(x_bytes)));
  char* sums = static_cast<char*>(Scratch(0, static_cast<size_t>(sums_bytes * num_threads)));
  if (x == nullptr || sums == nullptr) return false;
  pack_x(x);
  const int64_t strips = (g.epilogue.n + kPanelGroup - 1) / kPanelGroup;
  Parallel(num_threads, [&](int thread, int all) {
    const int64_t begin = strips * thread / all * kPanelGroup;
    const int64_t end = strips * (thread + 1) / all * kPanelGroup;
    RunDotRows<Dot>(g, x, begin, end < g.epilogue.n ? end : g.epilogue.n,
                    reinterpret_cast<float*>(sums + thread * sums_bytes));
  });
  return true;
}

}  // namespace
}  // namespace kpt::cpu::KPT_SIMD_NS

#endif  // KPT_KERNELS_GEMM_CPU_DOT_ROWS_H_

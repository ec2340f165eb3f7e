// The loop nest of byte_gemm.h: both factors are converted inside the cache blocks, nothing is
// written to memory but y.
//
// A thread owns a range of rows of a and a range of panels of b. It takes up to kNestPanels panels
// and kNestDepth dwords of K at a time: this piece of b is packed as panels (panel.h), which stay
// in the second-level cache. Then every tile of rows of a is converted to the first-level cache and
// multiplied with all these panels: a code of a is converted once for 256 columns. Sums wait in
// the outer cache for the next piece of K. While the tiles multiply, the next piece of b is
// prefetched at an even pace.
//
// An Op converts and multiplies:
//   kPerDword   k in a dword of a converted row
//   kTileRows   rows of a in the register tile
//   kExact      whether sums are integers, scaled once at the end, or floats, scaled slice by slice
//   ConvertA    `count` codes of a row to dwords, zero filled to a multiple of kUnit codes
//   PackB       the same of 16 rows of b, `valid` of them real, into a panel's group
//   Multiply    sums[rows][64] (+)= a * panel, times row[i] * column[j] unless kExact
// k may be reordered within kUnit codes, by both in the same way.
//
// Included by files compiled for one instruction set, with its namespace in KPT_SIMD_NS.
#ifndef KPT_KERNELS_GEMM_CPU_BYTE_NEST_H_
#define KPT_KERNELS_GEMM_CPU_BYTE_NEST_H_

#include <cstdint>
#include <cstring>

#include "kernels/base/parallel_for.h"
#include "kernels/base/scratch.h"
#include "kernels/gemm/cpu/byte_gemm.h"
#include "kernels/gemm/cpu/panel_nest.h"
#include "kernels/gemm/cpu/quant_gemm.h"

namespace kpt::cpu::KPT_SIMD_NS {
namespace {

constexpr int64_t kNestDepth = 256;     // dwords: 64 KiB of a panel
constexpr int64_t kNestPanels = 4;      // panels that share a converted tile of a
constexpr int64_t kNestSumRows = 1024;  // rows whose sums wait for the next piece of K
constexpr int64_t kUnit = 64;           // codes
constexpr int64_t kMostSlices = 4;      // slices of K with scales of their own in a piece
constexpr int64_t kPrefetchDepth = 16;  // dwords of K between prefetches
constexpr int64_t kPanelGroups = kPanelCols / kPanelGroup;

constexpr int64_t Least(int64_t a, int64_t b) { return a < b ? a : b; }
constexpr int64_t RoundToUnit(int64_t codes) { return (codes + kUnit - 1) / kUnit * kUnit; }

// A gated panel is 32 features as gate, up, gate, up.
inline ByteGroup GroupOf(const ByteGemm& g, int64_t panel, int64_t i) {
  const int64_t features = g.gated() ? kPanelCols / 2 : kPanelCols;
  const int64_t feature = panel * features + (g.gated() ? i / 2 : i) * kPanelGroup;
  const int64_t left = g.epilogue.n - feature;
  if (left <= 0) return {0, 0};
  return {feature + (g.gated() && i % 2 != 0 ? g.epilogue.n : 0), Least(left, kPanelGroup)};
}

inline int64_t PanelsOf(const ByteGemm& g) {
  const int64_t features = g.gated() ? kPanelCols / 2 : kPanelCols;
  return (g.epilogue.n + features - 1) / features;
}

// Codes [k, k + count) of the rows of panels [begin, end): prefetched line by line.
class PiecePrefetch {
 public:
  PiecePrefetch() = default;
  PiecePrefetch(const ByteGemm& g, int64_t begin, int64_t end, int64_t k, int64_t count,
                int64_t ticks)
      : stride_(g.ldb), row_bytes_(count) {
    int64_t rows = 0;
    for (int64_t p = begin; p < end; ++p) {
      for (int64_t i = 0; i < kPanelGroups; ++i) {
        const ByteGroup group = GroupOf(g, p, i);
        if (group.valid == 0) continue;
        groups_[count_++] = {g.b + group.column * g.ldb + k, group.valid};
        rows += group.valid;
      }
    }
    step_ = ticks > 0 ? rows * (count + 63) / ticks + 1 : 0;
  }

  [[gnu::always_inline]] inline void Tick() {
    credit_ += step_;
    while (credit_ >= 64) {
      credit_ -= 64;
      if (at_ >= count_) return;
      __builtin_prefetch(groups_[at_].data + row_ * stride_ + byte_, 0, 2);
      byte_ += 64;
      if (byte_ < row_bytes_) continue;
      byte_ = 0;
      if (++row_ < groups_[at_].rows) continue;
      row_ = 0;
      ++at_;
    }
  }

 private:
  struct Rows {
    const uint8_t* data;
    int64_t rows;
  };
  Rows groups_[kNestPanels * kPanelGroups];
  int64_t stride_ = 0, row_bytes_ = 0, step_ = 0, credit_ = 0;
  int64_t count_ = 0, at_ = 0, row_ = 0, byte_ = 0;
};

// A thread's share of one product.
template <class Op>
class ByteNest {
 public:
  static constexpr int64_t kPiece = kNestDepth * Op::kPerDword;  // codes of K

  // Bytes of scratch memory for rows [.., rows) of a thread.
  static int64_t ScratchBytes(const ByteGemm& g, int64_t rows) {
    return kPanelsAt + kNestPanels * SumRows(g, rows) * kPanelRowBytes;
  }

  ByteNest(const ByteGemm& g, const QuantShare& share, char* scratch)
      : g_(g),
        op_(g),
        share_(share),
        pieces_(g.k > 0 ? (g.k + kPiece - 1) / kPiece : 1),
        slice_(g.block_scales() ? kFp8Block : kPiece),
        sum_rows_(SumRows(g, share.row_end - share.row_begin)),
        columns_(reinterpret_cast<ColumnEnds*>(scratch)),
        rows_(reinterpret_cast<uint32_t*>(scratch + kRowsAt)),
        panels_(reinterpret_cast<uint32_t*>(scratch + kFirstPanelAt)),
        sums_(reinterpret_cast<float*>(scratch + kPanelsAt)) {}

  void Run() {
    for (int64_t m0 = share_.row_begin; m0 < share_.row_end; m0 += kNestSumRows) {
      const int64_t m1 = Least(m0 + kNestSumRows, share_.row_end);
      for (int64_t p0 = share_.panel_begin; p0 < share_.panel_end; p0 += kNestPanels) {
        const int64_t p1 = Least(p0 + kNestPanels, share_.panel_end);
        for (int64_t piece = 0; piece < pieces_; ++piece) RunPiece(m0, m1, p0, p1, piece);
      }
    }
  }

 private:
  // What belongs to the columns of one panel.
  struct ColumnEnds {
    float scale[kMostSlices][kPanelCols];
    int32_t sum[kPanelCols];
  };

  static constexpr int64_t kRowsAt = (kNestPanels * sizeof(ColumnEnds) + 4095) / 4096 * 4096;
  static constexpr int64_t kRowStride = kNestDepth + 16;  // dwords; no power of two
  static constexpr int64_t kFirstPanelAt =
      (kRowsAt + Op::kTileRows * kRowStride * 4 + 4095) / 4096 * 4096;
  static constexpr int64_t kPanelsAt = kFirstPanelAt + kNestPanels * kNestDepth * kPanelRowBytes;

  // With one piece of K sums are done with at once.
  static int64_t SumRows(const ByteGemm& g, int64_t rows) {
    const int64_t tile = Op::kTileRows;
    if (g.k <= kPiece) return tile;
    return (Least(rows, kNestSumRows) + tile - 1) / tile * tile + tile;
  }

  uint32_t* Panel(int64_t i) const { return panels_ + i * kNestDepth * kPanelCols; }
  int64_t Codes(int64_t piece) const { return Least(kPiece, g_.k - piece * kPiece); }

  void Pack(int64_t p0, int64_t p1, int64_t piece) {
    const int64_t k = piece * kPiece;
    const int64_t count = Codes(piece);
    for (int64_t p = p0; p < p1; ++p) {
      ColumnEnds& ends = columns_[p - p0];
      if (piece == 0) std::memset(ends.sum, 0, sizeof(ends.sum));
      for (int64_t i = 0; i < kPanelGroups; ++i) {
        const ByteGroup group = GroupOf(g_, p, i);
        op_.PackB(g_.b + group.column * g_.ldb + k, g_.ldb, group.valid, count,
                  Panel(p - p0) + i * kPanelGroup, ends.sum + i * kPanelGroup);
        for (int64_t s = 0; s * slice_ < count || s == 0; ++s) {
          for (int64_t j = 0; j < kPanelGroup; ++j) {
            ends.scale[s][i * kPanelGroup + j] =
                j < group.valid ? g_.b_scale.At(group.column + j, (k + s * slice_) / kFp8Block)
                                : 0.0f;
          }
        }
      }
    }
  }

  void PrefetchRows(int64_t m, int64_t m_end, int64_t k, int64_t count) const {
    for (int64_t r = m; r < m_end; ++r) {
      for (int64_t at = 0; at < count; at += 64) {
        __builtin_prefetch(g_.a + r * g_.lda + k + at, 0, 3);
      }
    }
  }

  void RunPiece(int64_t m0, int64_t m1, int64_t p0, int64_t p1, int64_t piece) {
    const int64_t k = piece * kPiece;
    const int64_t count = Codes(piece);
    const bool last = piece + 1 == pieces_;
    Pack(p0, p1, piece);
    const int64_t rows = m1 - m0;
    const int64_t tiles = (rows + Op::kTileRows - 1) / Op::kTileRows;
    const int64_t ticks = tiles * (p1 - p0) * (count / Op::kPerDword / kPrefetchDepth);
    PiecePrefetch ahead;
    if (!last) {
      ahead = PiecePrefetch(g_, p0, p1, k + kPiece, Codes(piece + 1), ticks);
    } else if (p1 < share_.panel_end) {
      const int64_t p2 = Least(p1 + kNestPanels, share_.panel_end);
      ahead = PiecePrefetch(g_, p1, p2, 0, Codes(0), ticks);
    }
    for (int64_t t = 0; t < tiles; ++t) {
      const int64_t r = rows * t / tiles;
      const int64_t some = rows * (t + 1) / tiles - r;
      float row_scale[kMostSlices][Op::kTileRows];
      for (int64_t i = 0; i < some; ++i) {
        op_.ConvertA(g_.a + (m0 + r + i) * g_.lda + k, count, rows_ + i * kRowStride);
        for (int64_t s = 0; s * slice_ < count || s == 0; ++s) {
          row_scale[s][i] = g_.a_scale.At(m0 + r + i, (k + s * slice_) / kFp8Block);
        }
      }
      PrefetchRows(m0 + r + some, Least(m0 + r + some + Op::kTileRows, m1), k, count);
      for (int64_t p = p0; p < p1; ++p) {
        float* sums = sums_ + ((p - p0) * sum_rows_ + (pieces_ > 1 ? r : 0)) * kPanelCols;
        const ColumnEnds& ends = columns_[p - p0];
        int64_t s = 0;
        do {
          const int64_t begin = s * slice_ / Op::kPerDword;
          const int64_t codes = Least(slice_, count - s * slice_);
          op_.Multiply(static_cast<int>(some), RoundToUnit(codes) / Op::kPerDword, rows_ + begin,
                       kRowStride, Panel(p - p0) + begin * kPanelCols, row_scale[s], ends.scale[s],
                       piece > 0 || s > 0, sums, &ahead);
        } while (++s * slice_ < count);
        if (!last) continue;
        if constexpr (Op::kExact) {
          op_.Finish(g_, m0 + r, some, row_scale[0], ends.scale[0], ends.sum, kPanelCols, sums);
        }
        EmitUnit(g_.epilogue, sums, m0 + r, some, p);
      }
    }
  }

  const ByteGemm& g_;
  Op op_;
  QuantShare share_;
  int64_t pieces_;
  int64_t slice_;  // codes of K under one scale
  int64_t sum_rows_;
  ColumnEnds* columns_;
  uint32_t* rows_;    // [kTileRows][kRowStride]
  uint32_t* panels_;  // [kNestPanels][kNestDepth][64]
  float* sums_;       // [kNestPanels][sum_rows_][64]
};

template <class Op>
bool RunByteNest(int num_threads, const ByteGemm& g) {
  if (g.m == 0 || g.epilogue.n == 0) return true;
  const int64_t bytes = (ByteNest<Op>::ScratchBytes(g, g.m) + 4095) / 4096 * 4096;
  char* scratch = ScratchAs<char>(0, static_cast<size_t>(bytes * num_threads));
  if (scratch == nullptr) return false;
  Parallel(num_threads, [&](int thread, int threads) {
    const QuantShare share = ShareOf(thread, threads, g.m, Op::kTileRows, PanelsOf(g), 1);
    if (share.row_begin >= share.row_end || share.panel_begin >= share.panel_end) return;
    ByteNest<Op>(g, share, scratch + thread * bytes).Run();
  });
  return true;
}

}  // namespace
}  // namespace kpt::cpu::KPT_SIMD_NS

#endif  // KPT_KERNELS_GEMM_CPU_BYTE_NEST_H_

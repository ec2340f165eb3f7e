// Planning of strips.
#ifndef KPT_KERNELS_QUANT_CPU_MAKE_STRIPS_H_
#define KPT_KERNELS_QUANT_CPU_MAKE_STRIPS_H_

#include "kernels/quant/cpu/strips.h"
#include "kernels/quant/scale_checks.h"

namespace kpt::cpu {

// Strips of `x`. `measured`: a group is measured before it is rounded, so a piece holds all of it.
inline Strips MakeStrips(const TensorView& x, int64_t cols, Granularity granularity,
                         bool measured) {
  constexpr int64_t kPiece = kMaxGroups * kScaleBlock;
  constexpr int64_t kSquarePiece = 8 * kScaleBlock;  // with its rows it fits the second-level cache
  Strips s;
  s.cols = cols;
  s.group = cols;
  s.piece = kPiece;
  switch (granularity) {
    case Granularity::kTensor:
      break;
    case Granularity::kRow:
      if (measured) s.piece = cols;
      break;
    case Granularity::kBlock1x128:
      s.group = kScaleBlock;
      break;
    case Granularity::kBlock128x128:
      s.group = kScaleBlock;
      s.piece = kSquarePiece;
      s.rows_per_strip = kScaleBlock;
      s.matrix_rows = x.dim(-2);
      s.strips_per_matrix = ScaleBlocks(s.matrix_rows);
      break;
  }
  if (s.piece > cols) s.piece = cols;
  if (cols > 0) {
    s.pieces_per_strip = (cols + s.piece - 1) / s.piece;
  } else {
    // An empty row has a scale too, though no block of it has one.
    s.pieces_per_strip = s.group == 0 ? 1 : 0;
    s.group = s.piece = 1;
  }
  return s;
}

// Pieces from which on a thread pays: a parallel region costs about as much as 8192 elements.
inline int64_t PieceGrain(const Strips& s) {
  constexpr int64_t kGrain = 8192;
  return kGrain / (s.piece * s.rows_per_strip) + 1;
}

}  // namespace kpt::cpu

#endif  // KPT_KERNELS_QUANT_CPU_MAKE_STRIPS_H_

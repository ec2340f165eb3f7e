// Strips: how the operators of this family walk a tensor and its scales.
//
// A strip is a row, or the 128 rows that share scales; it is cut into pieces, the unit of work. A
// piece holds whole groups (columns that share a scale), or a part of one group.
#ifndef KPT_KERNELS_QUANT_CPU_STRIPS_H_
#define KPT_KERNELS_QUANT_CPU_STRIPS_H_

#include <cstdint>

namespace kpt::cpu {

// Most groups in a piece.
inline constexpr int64_t kMaxGroups = 32;

struct Strips {
  int64_t cols = 0;
  int64_t rows_per_strip = 1;
  int64_t matrix_rows = 1;  // with several rows a strip: the rows that strips are counted over
  int64_t strips_per_matrix = 1;
  int64_t group = 1;  // columns that share a scale
  int64_t piece = 1;  // columns of a unit of work
  int64_t pieces_per_strip = 0;
};

}  // namespace kpt::cpu

#endif  // KPT_KERNELS_QUANT_CPU_STRIPS_H_

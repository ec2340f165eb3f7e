// Groups of consecutive rows: where each ends or, of slots of one size, how many rows each holds.
#ifndef KPT_KERNELS_GEMM_CPU_ROW_GROUPS_H_
#define KPT_KERNELS_GEMM_CPU_ROW_GROUPS_H_

#include <cstdint>
#include <vector>

#include "kernels/base/status.h"
#include "kernels/base/tensor_view.h"
#include "kernels/gemm/cpu/gradient_rows.h"

namespace kpt::cpu {

struct RowGroup {
  int64_t begin;
  int64_t end;
};

// Matrices of groups, `step` elements from one to the next.
struct GroupMatrices {
  RowMatrix first;
  int64_t step = 0;

  RowMatrix Of(size_t group) const {
    RowMatrix matrix = first;
    matrix.data = first.At(0, step * static_cast<int64_t>(group));
    return matrix;
  }
};

// Checks a weight [E, N, K] and offsets [E] against x [rows, K]; *groups gets the E groups, in
// order. `masked`: group g lies in rows [g rows / E, (g + 1) rows / E), of which it has offsets[g].
Status ReadGroups(const char* op, const TensorView& x, const TensorView& weight,
                  const TensorView& offsets, bool masked, std::vector<RowGroup>* groups);

// Views of rank 2 and 3 with dense last dimensions.
RowMatrix AsRowMatrix(const TensorView& t);
GroupMatrices AsGroupMatrices(const TensorView& t);

// Zeros in the rows of m that are in none of the groups.
void ClearOthers(int num_threads, const RowMatrix& m, const std::vector<RowGroup>& groups);

}  // namespace kpt::cpu

#endif  // KPT_KERNELS_GEMM_CPU_ROW_GROUPS_H_

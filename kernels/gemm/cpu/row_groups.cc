#include "kernels/gemm/cpu/row_groups.h"

#include <cstring>
#include <string>

#include "kernels/base/parallel_for.h"
#include "kernels/base/row_checks.h"
#include "kernels/gemm/cpu/linear_checks.h"

namespace kpt::cpu {

Status ReadGroups(const char* op, const TensorView& x, const TensorView& weight,
                  const TensorView& offsets, std::vector<RowGroup>* groups) {
  KPT_RETURN_IF_ERROR(CheckRows(op, "x", x, 2));
  KPT_RETURN_IF_ERROR(CheckLinearInput(op, "weight", weight, x, 3));
  if (x.rank != 2) {
    return Status::InvalidArgument(Argument(op, "x") + "must have 2 dimensions [T, K], got " +
                                   ShapeText(x));
  }
  if (weight.rank != 3 || weight.dim(2) != x.dim(1)) {
    return Status::InvalidArgument(Argument(op, "weight") + "must have shape [E, N, " +
                                   std::to_string(x.dim(1)) + "], got " + ShapeText(weight));
  }
  if (offsets.dtype != DType::kInt32) {
    return Status::TypeError(Argument(op, "offsets") + "must have dtype int32, got " +
                             Name(offsets.dtype));
  }
  const int64_t count = weight.dim(0);
  if (offsets.rank != 1 || offsets.dim(0) != count) {
    return Status::InvalidArgument(Argument(op, "offsets") + "must have shape [" +
                                   std::to_string(count) + "] like the first of 'weight', got " +
                                   ShapeText(offsets));
  }
  int64_t begin = 0;
  groups->reserve(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) {
    const int64_t end = offsets.as<int32_t>()[i * offsets.stride(0)];
    if (end < begin || end > x.dim(0)) {
      return Status::InvalidArgument(Argument(op, "offsets") + "must not decrease, from 0 to " +
                                     std::to_string(x.dim(0)) + " rows of 'x', got " +
                                     std::to_string(end) + " at " + std::to_string(i) + " after " +
                                     std::to_string(begin));
    }
    groups->push_back({begin, end});
    begin = end;
  }
  return Status();
}

RowMatrix AsRowMatrix(const TensorView& t) {
  return {t.data, t.dtype, t.stride(0), t.dim(0), t.dim(1)};
}

GroupMatrices AsGroupMatrices(const TensorView& t) {
  return {{t.data, t.dtype, t.stride(1), t.dim(1), t.dim(2)}, t.stride(0)};
}

void ClearRows(int num_threads, const RowMatrix& m, int64_t begin) {
  const size_t bytes = static_cast<size_t>(m.cols * ItemSize(m.dtype));
  if (bytes == 0) return;
  ParallelFor(num_threads, m.rows - begin, 65536 / static_cast<int64_t>(bytes) + 1,
              [&](int64_t first, int64_t last) {
                for (int64_t r = first; r < last; ++r) {
                  std::memset(const_cast<void*>(m.At(begin + r, 0)), 0, bytes);
                }
              });
}

}  // namespace kpt::cpu

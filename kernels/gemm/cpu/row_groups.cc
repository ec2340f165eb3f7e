#include "kernels/gemm/cpu/row_groups.h"

#include <cstring>
#include <string>

#include "kernels/base/parallel_for.h"
#include "kernels/base/row_checks.h"
#include "kernels/gemm/cpu/linear_checks.h"

namespace kpt::cpu {
namespace {

Status ReadSlots(const char* op, int64_t rows, const TensorView& offsets,
                 std::vector<RowGroup>* groups) {
  const int64_t count = offsets.dim(0);
  if (count == 0) return Status();
  if (rows % count != 0) {
    return Status::InvalidArgument(Argument(op, "x") + "must have as many rows for each of the " +
                                   std::to_string(count) + " groups in the masked layout, got " +
                                   std::to_string(rows));
  }
  const int64_t slot = rows / count;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t n = offsets.as<int32_t>()[i * offsets.stride(0)];
    if (n < 0 || n > slot) {
      return Status::InvalidArgument(Argument(op, "offsets") + "must be from 0 to the " +
                                     std::to_string(slot) + " rows of a group in 'x', got " +
                                     std::to_string(n) + " at " + std::to_string(i));
    }
    groups->push_back({i * slot, i * slot + n});
  }
  return Status();
}

// Zeros in rows [begin, end) of m.
void ClearRows(int num_threads, const RowMatrix& m, int64_t begin, int64_t end) {
  const size_t bytes = static_cast<size_t>(m.cols * ItemSize(m.dtype));
  if (bytes == 0) return;
  ParallelFor(num_threads, end - begin, 65536 / static_cast<int64_t>(bytes) + 1,
              [&](int64_t first, int64_t last) {
                for (int64_t r = first; r < last; ++r) {
                  std::memset(const_cast<void*>(m.At(begin + r, 0)), 0, bytes);
                }
              });
}

}  // namespace

Status ReadGroups(const char* op, const TensorView& x, const TensorView& weight,
                  const TensorView& offsets, bool masked, std::vector<RowGroup>* groups) {
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
  groups->reserve(static_cast<size_t>(count));
  if (masked) return ReadSlots(op, x.dim(0), offsets, groups);
  int64_t begin = 0;
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

void ClearOthers(int num_threads, const RowMatrix& m, const std::vector<RowGroup>& groups) {
  int64_t begin = 0;
  for (const RowGroup& group : groups) {
    ClearRows(num_threads, m, begin, group.begin);
    begin = group.end;
  }
  ClearRows(num_threads, m, begin, m.rows);
}

}  // namespace kpt::cpu

// What the gradients of a matrix product need beside products: a transpose and sums over columns.
#ifndef KPT_KERNELS_GEMM_CPU_GRADIENT_ROWS_H_
#define KPT_KERNELS_GEMM_CPU_GRADIENT_ROWS_H_

#include <cstdint>

#include "kernels/base/dtype.h"

namespace kpt::cpu {

// A matrix of float32, float16 or bfloat16 with dense rows.
struct RowMatrix {
  const void* data = nullptr;
  DType dtype = DType::kFloat32;
  int64_t ld = 0;  // elements between rows
  int64_t rows = 0;
  int64_t cols = 0;

  const void* At(int64_t row, int64_t col) const {
    if (data == nullptr) return nullptr;  // it has no elements
    return static_cast<const char*>(data) + (row * ld + col) * ItemSize(dtype);
  }
  RowMatrix Rows(int64_t begin, int64_t end) const {
    RowMatrix part = *this;
    part.data = At(begin, 0);
    part.rows = end - begin;
    return part;
  }
};

// In each of the portable namespaces, for rows or columns [begin, end) of `from`:
//   Transpose   to[c * ldt + r] = from[r * ld + c], all columns of those rows; same dtype.
//   ColumnSums  to[c] = the sum of column c, in float and rounded once to the dtype of `from`.
//   Eight
//               rows are summed, eight of these sums, and so on: rounding errors of many rows stay
//               small, and the order depends on nothing but the number of rows.
#define KPT_GRADIENT_DECLARE(ns)                                                            \
  namespace ns {                                                                            \
  void Transpose(const RowMatrix& from, int64_t begin, int64_t end, void* to, int64_t ldt); \
  void ColumnSums(const RowMatrix& from, int64_t begin, int64_t end, void* to);             \
  }
KPT_GRADIENT_DECLARE(baseline)
KPT_GRADIENT_DECLARE(avx2)
KPT_GRADIENT_DECLARE(avx512)
#undef KPT_GRADIENT_DECLARE

}  // namespace kpt::cpu

#endif  // KPT_KERNELS_GEMM_CPU_GRADIENT_ROWS_H_

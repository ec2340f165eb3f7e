// A tensor [..., K] as a matrix: leading dimensions taken as one.
#ifndef KPT_KERNELS_GEMM_CPU_MATRIX_ROWS_H_
#define KPT_KERNELS_GEMM_CPU_MATRIX_ROWS_H_

#include <cstdint>
#include <cstring>

#include "kernels/base/parallel_for.h"
#include "kernels/base/tensor_view.h"

namespace kpt::cpu {

inline bool IsDense(const TensorView& t) {
  int64_t stride = 1;
  for (int i = t.rank - 1; i >= 0; --i) {
    if (t.shape[i] > 1 && t.strides[i] != stride) return false;
    stride *= t.shape[i];
  }
  return true;
}

// True when a single stride walks all rows; *rows is set either way.
inline bool AsMatrix(const TensorView& t, int64_t* rows, int64_t* stride) {
  *rows = 1;
  for (int i = 0; i < t.rank - 1; ++i) *rows *= t.shape[i];
  *stride = t.dim(-1);
  int64_t inner = 0;  // rows of the dimensions so far; 0 before the first of more than one row
  for (int i = t.rank - 2; i >= 0; --i) {
    if (t.shape[i] == 1) continue;
    if (inner == 0) {
      *stride = t.strides[i];
      inner = t.shape[i];
    } else {
      if (t.strides[i] != *stride * inner) return false;
      inner *= t.shape[i];
    }
  }
  return true;
}

// Copies the rows of t, in order, to a dense matrix.
inline void CopyRows(int num_threads, const TensorView& t, int64_t rows, char* out) {
  const int64_t item = ItemSize(t.dtype);
  const int64_t row_bytes = t.dim(-1) * item;
  if (row_bytes == 0) return;
  ParallelFor(num_threads, rows, 64, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      int64_t offset = 0;
      int64_t left = r;
      for (int i = t.rank - 2; i >= 0; --i) {
        offset += left % t.shape[i] * t.strides[i];
        left /= t.shape[i];
      }
      std::memcpy(out + r * row_bytes, t.as<char>() + offset * item,
                  static_cast<size_t>(row_bytes));
    }
  });
}

}  // namespace kpt::cpu

#endif  // KPT_KERNELS_GEMM_CPU_MATRIX_ROWS_H_

// The check of rotary tables that rope and what rotates on its way share.
#ifndef KPT_KERNELS_BASE_ROTATION_CHECKS_H_
#define KPT_KERNELS_BASE_ROTATION_CHECKS_H_

#include <string>

#include "kernels/base/row_checks.h"
#include "kernels/base/status.h"
#include "kernels/base/tensor_view.h"

namespace kpt {

// A table (cosines or sines) for the positions of `rows` [B, H, S, D], the argument `rows_arg`: see
// rope.h. Also sets the number of pairs it turns.
inline Status CheckRotation(const char* op, const char* arg, const TensorView& table,
                            const char* rows_arg, const TensorView& rows, bool interleaved,
                            int64_t* pairs) {
  KPT_RETURN_IF_ERROR(CheckRows(op, arg, table, 2));
  const int64_t width = table.dim(-1), head_dim = rows.dim(-1);
  const bool batch_fits =
      table.rank == 2 ||
      (table.rank == 3 && (table.shape[0] == 1 || table.shape[0] == rows.shape[0]));
  if (!batch_fits || table.dim(-2) != rows.dim(-2)) {
    return Status::InvalidArgument(Argument(op, arg) +
                                   "must be [seqlen, pairs] or [batch, seqlen, pairs] for " +
                                   rows_arg + " " + ShapeText(rows) + ", got " + ShapeText(table));
  }
  if (table.dtype != rows.dtype && table.dtype != DType::kFloat32) {
    return Status::TypeError(Argument(op, arg) + "must have dtype " + Name(rows.dtype) +
                             " or float32, got " + Name(table.dtype));
  }
  if (2 * width <= head_dim) {
    *pairs = width;
  } else if (!interleaved && width <= head_dim && width % 2 == 0) {
    *pairs = width / 2;
  } else {
    return Status::InvalidArgument(
        Argument(op, arg) + "must have at most head_dim / 2 columns" +
        (interleaved ? "" : ", or an even number of at most head_dim with each half the same") +
        ", got " + std::to_string(width) + " for head_dim " + std::to_string(head_dim));
  }
  return Status();
}

}  // namespace kpt

#endif  // KPT_KERNELS_BASE_ROTATION_CHECKS_H_

// What the operators of the family check alike.
#ifndef KPT_KERNELS_MOE_CPU_MOE_CHECKS_H_
#define KPT_KERNELS_MOE_CPU_MOE_CHECKS_H_

#include <string>

#include "kernels/base/row_checks.h"

namespace kpt::cpu {

// A matrix of a given shape and dtype with a dense last dimension.
inline Status CheckMatrix(const char* op, const char* arg, const TensorView& t, int64_t rows,
                          int64_t cols, DType dtype) {
  if (t.dtype != dtype) {
    return Status::TypeError(Argument(op, arg) + "must have dtype " + Name(dtype) + ", got " +
                             Name(t.dtype));
  }
  if (t.rank != 2 || t.dim(0) != rows || t.dim(1) != cols) {
    return Status::InvalidArgument(Argument(op, arg) + "must have shape [" + std::to_string(rows) +
                                   ", " + std::to_string(cols) + "], got " + ShapeText(t));
  }
  if (cols > 1 && t.stride(1) != 1) {
    return Status::InvalidArgument(Argument(op, arg) + "must have a dense last dimension, got " +
                                   "stride " + std::to_string(t.stride(1)));
  }
  return Status();
}

// Two dimensions, and what CheckRows wants.
inline Status CheckRowMatrix(const char* op, const char* arg, const TensorView& t) {
  KPT_RETURN_IF_ERROR(CheckRows(op, arg, t, 2));
  if (t.rank == 2) return Status();
  return Status::InvalidArgument(Argument(op, arg) + "must have 2 dimensions, got " + ShapeText(t));
}

inline Status CheckOutput(const char* op, const char* arg, const MutableTensorView& out,
                          std::initializer_list<const TensorView*> inputs) {
  KPT_RETURN_IF_ERROR(CheckWritesOnce(op, arg, out));
  for (const TensorView* input : inputs) {
    if (out.size() == 0 || !input->present() || input->size() == 0) continue;
    KPT_RETURN_IF_ERROR(CheckOverlap(op, arg, out, "an input", *input, false));
  }
  return Status();
}

inline Status OutOfScratch(const char* op) {
  return Status::ResourceExhausted(std::string(op) + ": no memory for scratch buffers");
}

}  // namespace kpt::cpu

#endif  // KPT_KERNELS_MOE_CPU_MOE_CHECKS_H_

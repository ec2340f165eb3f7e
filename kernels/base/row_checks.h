// Checks that the row-wise operators share. Messages name the operator and the argument.
#ifndef KPT_KERNELS_BASE_ROW_CHECKS_H_
#define KPT_KERNELS_BASE_ROW_CHECKS_H_

#include <string>

#include "kernels/base/rows.h"
#include "kernels/base/status.h"
#include "kernels/base/tensor_view.h"

namespace kpt {

inline std::string ShapeText(const TensorView& view) {
  std::string text = "[";
  for (int d = 0; d < view.rank; ++d) {
    if (d > 0) text += ", ";
    text += std::to_string(view.shape[d]);
  }
  return text + "]";
}

inline std::string Argument(const char* op, const char* arg) {
  return std::string(op) + ": argument '" + arg + "' ";
}

// A float, half or bfloat16 tensor of rank >= min_rank with a dense last dimension.
inline Status CheckRows(const char* op, const char* arg, const TensorView& view, int min_rank) {
  if (view.rank < min_rank) {
    return Status::InvalidArgument(Argument(op, arg) + "must have at least " +
                                   std::to_string(min_rank) + " dimension(s), got " +
                                   ShapeText(view));
  }
  if (view.dtype != DType::kFloat32 && view.dtype != DType::kFloat16 &&
      view.dtype != DType::kBFloat16) {
    return Status::TypeError(Argument(op, arg) +
                             "must have dtype float32 or float16 or bfloat16, got " +
                             Name(view.dtype));
  }
  if (view.rank > 0 && view.dim(-1) > 1 && view.stride(-1) != 1) {
    return Status::InvalidArgument(Argument(op, arg) + "must have a dense last dimension, got " +
                                   "stride " + std::to_string(view.stride(-1)));
  }
  return Status();
}

// The shape and dtype of `like`, with a dense last dimension.
inline Status CheckLike(const char* op, const char* arg, const TensorView& view,
                        const char* like_arg, const TensorView& like) {
  bool same = view.rank == like.rank;
  for (int d = 0; same && d < view.rank; ++d) same = view.shape[d] == like.shape[d];
  if (!same) {
    return Status::InvalidArgument(Argument(op, arg) + "must have shape " + ShapeText(like) +
                                   " like '" + like_arg + "', got " + ShapeText(view));
  }
  if (view.dtype != like.dtype) {
    return Status::TypeError(Argument(op, arg) + "must have dtype " + Name(like.dtype) + " like '" +
                             like_arg + "', got " + Name(view.dtype));
  }
  return CheckRows(op, arg, view, 0);
}

// An output that may be exactly one of its inputs: `other` is such an input.
inline Status CheckOverlap(const char* op, const char* arg, const TensorView& out,
                           const char* other_arg, const TensorView& other, bool in_place_allowed) {
  if (!other.present() || !RangesMeet(out, other)) return Status();
  if (in_place_allowed && SameElements(out, other)) return Status();
  return Status::InvalidArgument(Argument(op, arg) + "overlaps '" + other_arg + "' in memory");
}

inline Status CheckWritesOnce(const char* op, const char* arg, const TensorView& out) {
  if (!OverlapsItself(out)) return Status();
  return Status::InvalidArgument(Argument(op, arg) + "must not overlap itself");
}

}  // namespace kpt

#endif  // KPT_KERNELS_BASE_ROW_CHECKS_H_

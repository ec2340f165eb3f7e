// Checks that the operators of the attention family share.
#ifndef KPT_KERNELS_ATTENTION_ATTENTION_CHECKS_H_
#define KPT_KERNELS_ATTENTION_ATTENTION_CHECKS_H_

#include <string>

#include "kernels/base/row_checks.h"
#include "kernels/base/status.h"
#include "kernels/base/tensor_view.h"

namespace kpt {

inline Status Wrong(const char* op, const char* arg, const std::string& expected,
                    const std::string& got) {
  return Status::InvalidArgument(Argument(op, arg) + "must " + expected + ", got " + got);
}

inline Status WrongType(const char* op, const char* arg, const std::string& expected, DType got) {
  return Status::TypeError(Argument(op, arg) + "must have dtype " + expected + ", got " +
                           Name(got));
}

inline Status CheckRank(const char* op, const char* arg, const TensorView& t, int rank) {
  if (t.rank == rank) return Status();
  return Wrong(op, arg, "have " + std::to_string(rank) + " dimensions", ShapeText(t));
}

inline Status CheckShape(const char* op, const char* arg, const TensorView& t, const int64_t* shape,
                         int rank) {
  TensorView expected;
  expected.rank = rank;
  bool same = t.rank == rank;
  for (int i = 0; i < rank; ++i) {
    expected.shape[i] = shape[i];
    same = same && t.shape[i] == shape[i];
  }
  return same ? Status() : Wrong(op, arg, "have shape " + ShapeText(expected), ShapeText(t));
}

inline Status CheckDense(const char* op, const char* arg, const TensorView& t) {
  if (t.dim(-1) <= 1 || t.stride(-1) == 1) return Status();
  return Wrong(op, arg, "have a dense last dimension", "stride " + std::to_string(t.stride(-1)));
}

}  // namespace kpt

#endif  // KPT_KERNELS_ATTENTION_ATTENTION_CHECKS_H_

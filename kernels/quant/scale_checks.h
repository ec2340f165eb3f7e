// What the operators of this family check of scales, on any backend.
#ifndef KPT_KERNELS_QUANT_SCALE_CHECKS_H_
#define KPT_KERNELS_QUANT_SCALE_CHECKS_H_

#include <string>

#include "kernels/base/row_checks.h"
#include "kernels/quant/granularity.h"

namespace kpt {

inline int64_t ScaleBlocks(int64_t n) { return (n + kScaleBlock - 1) / kScaleBlock; }

// The shape of the scales of `x`, dense.
inline TensorView ScaleShape(const TensorView& x, Granularity granularity) {
  TensorView s;
  s.rank = 0;
  if (granularity == Granularity::kTensor) return s;
  s.rank = granularity == Granularity::kRow ? x.rank - 1 : x.rank;
  for (int d = 0; d < s.rank; ++d) s.shape[d] = x.shape[d];
  if (granularity != Granularity::kRow) s.shape[s.rank - 1] = ScaleBlocks(x.dim(-1));
  if (granularity == Granularity::kBlock128x128) s.shape[s.rank - 2] = ScaleBlocks(x.dim(-2));
  return s;
}

// Scales (or zero points, of another dtype) of `x`.
inline Status CheckScales(const char* op, const char* arg, const TensorView& scale, DType dtype,
                          const TensorView& x, Granularity granularity) {
  const TensorView want = ScaleShape(x, granularity);
  bool same = scale.rank == want.rank;
  for (int d = 0; same && d < want.rank; ++d) same = scale.shape[d] == want.shape[d];
  if (!same) {
    return Status::InvalidArgument(Argument(op, arg) + "must have shape " + ShapeText(want) +
                                   ", got " + ShapeText(scale));
  }
  if (scale.dtype != dtype) {
    return Status::TypeError(Argument(op, arg) + "must have dtype " + Name(dtype) + ", got " +
                             Name(scale.dtype));
  }
  if (scale.rank > 0 && scale.dim(-1) > 1 && scale.stride(-1) != 1) {
    return Status::InvalidArgument(Argument(op, arg) + "must have a dense last dimension, got " +
                                   "stride " + std::to_string(scale.stride(-1)));
  }
  return Status();
}

// `view` (x, its codes or its scales) as a tensor of x's rank whose rows are strips.
inline TensorView StripView(TensorView view, int x_rank, Granularity granularity, bool is_scale) {
  if (!view.present() || view.rank == 0) return TensorView();
  if (is_scale && view.rank == x_rank - 1) {
    view.shape[view.rank] = 1;
    view.strides[view.rank++] = 1;
  }
  if (granularity == Granularity::kBlock128x128 && !is_scale) {
    const int d = view.rank - 2;
    view.shape[d] = ScaleBlocks(view.shape[d]);
    view.strides[d] *= kScaleBlock;
  }
  return view;
}

}  // namespace kpt

#endif  // KPT_KERNELS_QUANT_SCALE_CHECKS_H_

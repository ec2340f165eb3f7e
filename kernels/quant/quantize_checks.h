// What quantize_fp8 and quantize_int8 check, on any backend.
#ifndef KPT_KERNELS_QUANT_QUANTIZE_CHECKS_H_
#define KPT_KERNELS_QUANT_QUANTIZE_CHECKS_H_

#include <string>

#include "kernels/base/row_checks.h"
#include "kernels/quant/granularity.h"
#include "kernels/quant/scale_checks.h"

namespace kpt {

// The arguments of either; absent views where an operator has none, or the call.
struct QuantizeTensors {
  TensorView codes, scale_out, zero_out, x, scale_in, zero_in;
};

inline Status CheckQuantize(const char* op, const QuantizeTensors& t, Granularity granularity) {
  KPT_RETURN_IF_ERROR(CheckRows(op, "x", t.x, granularity == Granularity::kBlock128x128 ? 2 : 1));
  bool same = t.codes.rank == t.x.rank;
  for (int d = 0; same && d < t.x.rank; ++d) same = t.codes.shape[d] == t.x.shape[d];
  if (!same) {
    return Status::InvalidArgument(Argument(op, "x_q") + "must have shape " + ShapeText(t.x) +
                                   " like 'x', got " + ShapeText(t.codes));
  }
  if (t.codes.dim(-1) > 1 && t.codes.stride(-1) != 1) {
    return Status::InvalidArgument(Argument(op, "x_q") + "must have a dense last dimension, got " +
                                   "stride " + std::to_string(t.codes.stride(-1)));
  }
  struct Named {
    const char* name;
    const TensorView* view;
    DType dtype;
  };
  const Named scales[] = {{"scale_out", &t.scale_out, DType::kFloat32},
                          {"zero_point_out", &t.zero_out, DType::kInt32},
                          {"scale", &t.scale_in, DType::kFloat32},
                          {"zero_point", &t.zero_in, DType::kInt32}};
  for (const Named& s : scales) {
    if (!s.view->present()) continue;
    KPT_RETURN_IF_ERROR(CheckScales(op, s.name, *s.view, s.dtype, t.x, granularity));
  }
  const Named outs[] = {{"x_q", &t.codes, DType::kInt8}, scales[0], scales[1]};
  const Named ins[] = {{"x", &t.x, DType::kFloat32}, scales[2], scales[3]};
  for (int i = 0; i < 3; ++i) {
    if (!outs[i].view->present()) continue;
    KPT_RETURN_IF_ERROR(CheckWritesOnce(op, outs[i].name, *outs[i].view));
    for (const Named& in : ins) {
      KPT_RETURN_IF_ERROR(CheckOverlap(op, outs[i].name, *outs[i].view, in.name, *in.view, false));
    }
    for (int j = 0; j < i; ++j) {
      KPT_RETURN_IF_ERROR(
          CheckOverlap(op, outs[i].name, *outs[i].view, outs[j].name, *outs[j].view, false));
    }
  }
  return Status();
}

}  // namespace kpt

#endif  // KPT_KERNELS_QUANT_QUANTIZE_CHECKS_H_

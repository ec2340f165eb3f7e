// What dequantize_fp8 checks, on any backend.
#ifndef KPT_KERNELS_QUANT_DEQUANTIZE_CHECKS_H_
#define KPT_KERNELS_QUANT_DEQUANTIZE_CHECKS_H_

#include <string>

#include "kernels/base/row_checks.h"
#include "kernels/quant/dequantize_fp8.h"
#include "kernels/quant/scale_checks.h"

namespace kpt {

// By the rule of dequantize_fp8.h.
inline Granularity GranularityOf(const TensorView& scale, const TensorView& x) {
  if (scale.rank == 0) return Granularity::kTensor;
  if (scale.rank == x.rank - 1) return Granularity::kRow;
  if (scale.rank < 2 || x.rank < 2 || scale.dim(-2) == x.dim(-2)) return Granularity::kBlock1x128;
  return Granularity::kBlock128x128;
}

inline Status CheckDequantize(const char* op, const backend::DequantizeFp8Args& args) {
  const TensorView& x = args.x_q;
  if (x.dtype != DType::kFloat8E4M3FN && x.dtype != DType::kFloat8E5M2) {
    return Status::TypeError(Argument(op, "x_q") +
                             "must have dtype float8_e4m3fn or float8_e5m2, got " + Name(x.dtype));
  }
  KPT_RETURN_IF_ERROR(CheckRows(op, "out", args.out, 1));
  // All but the dtype is as it must be of a like tensor.
  TensorView like = x;
  like.dtype = args.out.dtype;
  KPT_RETURN_IF_ERROR(CheckLike(op, "x_q", like, "out", args.out));
  KPT_RETURN_IF_ERROR(
      CheckScales(op, "scale", args.scale, DType::kFloat32, x, GranularityOf(args.scale, x)));
  KPT_RETURN_IF_ERROR(CheckWritesOnce(op, "out", args.out));
  KPT_RETURN_IF_ERROR(CheckOverlap(op, "out", args.out, "x_q", x, false));
  return CheckOverlap(op, "out", args.out, "scale", args.scale, false);
}

}  // namespace kpt

#endif  // KPT_KERNELS_QUANT_DEQUANTIZE_CHECKS_H_

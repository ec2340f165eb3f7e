// What fused_norm_quantize and fused_act_quantize check, on any backend.
#ifndef KPT_KERNELS_QUANT_FUSED_CHECKS_H_
#define KPT_KERNELS_QUANT_FUSED_CHECKS_H_

#include <string>

#include "kernels/base/row_checks.h"
#include "kernels/quant/fused_act_quantize.h"
#include "kernels/quant/fused_norm_quantize.h"
#include "kernels/quant/quant_format.h"
#include "kernels/quant/scale_checks.h"

namespace kpt::KPT_BACKEND {

// The outputs of quantization, against `y`, the shape that is quantized; and their format.
inline Status CheckFusedQuantization(const char* op, const TensorView& y, const TensorView& codes,
                                     const TensorView& scale_out, const TensorView& scale_in,
                                     Granularity granularity, QuantFormat* format) {
  switch (codes.dtype) {
    case DType::kFloat8E4M3FN:
      *format = QuantFormat::kE4M3;
      break;
    case DType::kFloat8E5M2:
      *format = QuantFormat::kE5M2;
      break;
    case DType::kInt8:
      *format = QuantFormat::kInt8;
      break;
    default:
      return Status::TypeError(Argument(op, "y_q") +
                               "must have dtype float8_e4m3fn, float8_e5m2 or int8, got " +
                               Name(codes.dtype));
  }
  if (granularity == Granularity::kBlock128x128 ||
      (granularity == Granularity::kBlock1x128 && codes.dtype == DType::kInt8)) {
    return Status::InvalidArgument(Argument(op, "granularity") +
                                   "must be tensor, row or (fp8) block1x128");
  }
  if (granularity == Granularity::kTensor && !scale_in.present()) {
    return Status::InvalidArgument(Argument(op, "scale") + "must be given for one tensor scale");
  }
  TensorView like = codes;
  like.dtype = y.dtype;
  KPT_RETURN_IF_ERROR(CheckLike(op, "y_q", like, "x", y));
  KPT_RETURN_IF_ERROR(CheckScales(op, "scale_out", scale_out, DType::kFloat32, y, granularity));
  if (!scale_in.present()) return Status();
  return CheckScales(op, "scale", scale_in, DType::kFloat32, y, granularity);
}

// outs[i] is written once, and overlaps neither an input nor another output.
template <int kOuts, int kIns>
Status CheckApart(const char* op, const TensorView* const (&outs)[kOuts],
                  const char* const (&out_names)[kOuts], const TensorView* const (&ins)[kIns],
                  const char* const (&in_names)[kIns]) {
  for (int i = 0; i < kOuts; ++i) {
    if (!outs[i]->present()) continue;
    KPT_RETURN_IF_ERROR(CheckWritesOnce(op, out_names[i], *outs[i]));
    for (int j = 0; j < kIns; ++j) {
      KPT_RETURN_IF_ERROR(CheckOverlap(op, out_names[i], *outs[i], in_names[j], *ins[j], false));
    }
    for (int j = 0; j < i; ++j) {
      KPT_RETURN_IF_ERROR(CheckOverlap(op, out_names[i], *outs[i], out_names[j], *outs[j], false));
    }
  }
  return Status();
}

inline Status CheckFusedParam(const char* op, const char* arg, const TensorView& param,
                              const TensorView& x) {
  if (!param.present()) return Status();
  if (param.rank != 1 || param.shape[0] != x.dim(-1)) {
    return Status::InvalidArgument(Argument(op, arg) + "must have shape [" +
                                   std::to_string(x.dim(-1)) + "], got " + ShapeText(param));
  }
  if (param.dtype != x.dtype && param.dtype != DType::kFloat32) {
    return Status::TypeError(Argument(op, arg) + "must have dtype " + Name(x.dtype) +
                             " or float32, got " + Name(param.dtype));
  }
  return CheckRows(op, arg, param, 1);
}

inline Status CheckFusedNorm(const char* op, const FusedNormQuantizeArgs& args,
                             QuantFormat* format) {
  KPT_RETURN_IF_ERROR(CheckRows(op, "x", args.x, 1));
  KPT_RETURN_IF_ERROR(CheckFusedQuantization(op, args.x, args.y_q, args.scale_out, args.scale,
                                             args.granularity, format));
  KPT_RETURN_IF_ERROR(CheckFusedParam(op, "weight", args.weight, args.x));
  KPT_RETURN_IF_ERROR(CheckFusedParam(op, "bias", args.bias, args.x));
  if (args.bias.present() && !args.subtract_mean) {
    return Status::InvalidArgument(Argument(op, "bias") + "is for layer norms only");
  }
  TensorView sum;
  if (args.residual.present()) {
    sum = args.new_residual;
    KPT_RETURN_IF_ERROR(CheckLike(op, "residual", args.residual, "x", args.x));
    KPT_RETURN_IF_ERROR(CheckLike(op, "new_residual", sum, "x", args.x));
  }
  return CheckApart(op, {&args.y_q, &args.scale_out, &sum}, {"y_q", "scale_out", "new_residual"},
                    {&args.x, &args.weight, &args.bias, &args.residual, &args.scale},
                    {"x", "weight", "bias", "residual", "scale"});
}

// `y`: x as far as its shape is that of the result.
inline Status CheckFusedAct(const char* op, const FusedActQuantizeArgs& args, TensorView* y,
                            QuantFormat* format) {
  KPT_RETURN_IF_ERROR(CheckRows(op, "x", args.x, 1));
  if (args.kind == ActivationKind::kNone || IsGated(args.kind)) {
    return Status::InvalidArgument(Argument(op, "kind") + "must be an elementwise activation");
  }
  *y = args.x;
  if (args.gated) {
    if (y->dim(-1) % 2 != 0) {
      return Status::InvalidArgument(Argument(op, "x") +
                                     "must have an even last dimension [..., 2 K], got " +
                                     ShapeText(args.x));
    }
    y->shape[y->rank - 1] /= 2;
  }
  KPT_RETURN_IF_ERROR(CheckFusedQuantization(op, *y, args.y_q, args.scale_out, args.scale,
                                             args.granularity, format));
  return CheckApart(op, {&args.y_q, &args.scale_out}, {"y_q", "scale_out"}, {&args.x, &args.scale},
                    {"x", "scale"});
}

}  // namespace kpt::KPT_BACKEND

#endif  // KPT_KERNELS_QUANT_FUSED_CHECKS_H_

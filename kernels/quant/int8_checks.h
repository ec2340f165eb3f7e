// What quantize_int8 checks, on any backend.
#ifndef KPT_KERNELS_QUANT_INT8_CHECKS_H_
#define KPT_KERNELS_QUANT_INT8_CHECKS_H_

#include "kernels/quant/quantize_checks.h"
#include "kernels/quant/quantize_int8.h"

namespace kpt::KPT_BACKEND {

// The options; and into `t` the tensors, for CheckQuantize.
inline Status CheckInt8Options(const char* op, const QuantizeInt8Args& args, QuantizeTensors* t) {
  if (args.x_q.dtype != DType::kInt8) {
    return Status::TypeError(Argument(op, "x_q") + "must have dtype int8, got " +
                             Name(args.x_q.dtype));
  }
  if (args.granularity != Granularity::kTensor && args.granularity != Granularity::kRow) {
    return Status::InvalidArgument(Argument(op, "granularity") + "must be tensor or row");
  }
  const bool wants_zero_point = args.scale.present() && !args.symmetric;
  if (args.zero_point.present() != wants_zero_point) {
    return Status::InvalidArgument(Argument(op, "zero_point") + "goes with a given scale of " +
                                   "asymmetric quantization, and with nothing else");
  }
  t->codes = args.x_q;
  t->scale_out = args.scale_out;
  t->zero_out = args.zero_point_out;
  t->x = args.x;
  t->scale_in = args.scale;
  t->zero_in = args.zero_point;
  return Status();
}

}  // namespace kpt::KPT_BACKEND

#endif  // KPT_KERNELS_QUANT_INT8_CHECKS_H_

#include "kernels/quant/quantize_int8.h"

#include "kernels/base/row_checks.h"
#include "kernels/quant/cpu/quantize_launch.h"

namespace kpt::cpu {

Status QuantizeInt8(const LaunchContext& ctx, const QuantizeInt8Args& args) {
  constexpr const char* kOp = "quantize_int8";
  if (args.x_q.dtype != DType::kInt8) {
    return Status::TypeError(Argument(kOp, "x_q") + "must have dtype int8, got " +
                             Name(args.x_q.dtype));
  }
  if (args.granularity != Granularity::kTensor && args.granularity != Granularity::kRow) {
    return Status::InvalidArgument(Argument(kOp, "granularity") + "must be tensor or row");
  }
  const bool wants_zero_point = args.scale.present() && !args.symmetric;
  if (args.zero_point.present() != wants_zero_point) {
    return Status::InvalidArgument(Argument(kOp, "zero_point") + "goes with a given scale of " +
                                   "asymmetric quantization, and with nothing else");
  }
  QuantSpec spec;
  spec.format = args.symmetric ? QuantFormat::kInt8 : QuantFormat::kInt8Asymmetric;
  QuantizeTensors t;
  t.codes = args.x_q;
  t.scale_out = args.scale_out;
  t.zero_out = args.zero_point_out;
  t.x = args.x;
  t.scale_in = args.scale;
  t.zero_in = args.zero_point;
  return RunQuantize(kOp, ctx, t, args.granularity, spec);
}

std::vector<VariantInfo> QuantizeInt8Variants() { return QuantizeVariants(); }

}  // namespace kpt::cpu

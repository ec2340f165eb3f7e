#include "kernels/quant/quantize_fp8.h"

#include "kernels/base/row_checks.h"
#include "kernels/quant/cpu/quantize_launch.h"

namespace kpt::cpu {

Status QuantizeFp8(const LaunchContext& ctx, const QuantizeFp8Args& args) {
  constexpr const char* kOp = "quantize_fp8";
  QuantSpec spec;
  if (args.x_q.dtype == DType::kFloat8E4M3FN) {
    spec.format = QuantFormat::kE4M3;
  } else if (args.x_q.dtype == DType::kFloat8E5M2) {
    spec.format = QuantFormat::kE5M2;
  } else {
    return Status::TypeError(Argument(kOp, "x_q") +
                             "must have dtype float8_e4m3fn or float8_e5m2, got " +
                             Name(args.x_q.dtype));
  }
  spec.return_amax = args.return_amax;
  spec.stochastic = args.stochastic;
  spec.seed = args.seed;
  QuantizeTensors t;
  t.codes = args.x_q;
  t.scale_out = args.scale_out;
  t.x = args.x;
  t.scale_in = args.scale;
  return RunQuantize(kOp, ctx, t, args.granularity, spec);
}

std::vector<VariantInfo> QuantizeFp8Variants() { return QuantizeVariants(); }

}  // namespace kpt::cpu

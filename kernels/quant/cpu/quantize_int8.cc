#include "kernels/quant/quantize_int8.h"

#include "kernels/quant/cpu/quantize_launch.h"
#include "kernels/quant/int8_checks.h"

namespace kpt::cpu {

Status QuantizeInt8(const LaunchContext& ctx, const QuantizeInt8Args& args) {
  constexpr const char* kOp = "quantize_int8";
  QuantizeTensors t;
  KPT_RETURN_IF_ERROR(CheckInt8Options(kOp, args, &t));
  QuantSpec spec;
  spec.format = args.symmetric ? QuantFormat::kInt8 : QuantFormat::kInt8Asymmetric;
  return RunQuantize(kOp, ctx, t, args.granularity, spec);
}

std::vector<VariantInfo> QuantizeInt8Variants() { return QuantizeVariants(); }

}  // namespace kpt::cpu

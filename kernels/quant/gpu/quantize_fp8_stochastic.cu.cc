// quantize_fp8 on a GPU, rounding at random. Rules: kernels/quant/quantize_fp8.h.
//
// Predicted on an H200 at 8192 x 8192 in bfloat16: 80 us, of instructions: about 45 an element
// (2.5 of the 10 rounds of Philox, of 8 each, and the rounding) where memory leaves room for 26.
#include "kernels/quant/gpu/quantize_impl.h"

namespace kpt::KPT_BACKEND {

Status QuantizeFp8StochasticVectors(const LaunchContext& ctx, const GpuQuantizeJob& job) {
  return ForFloatType(
      job.x_dtype, [&](auto t) { return Start<StochasticEncoder, decltype(t), true>(ctx, job); });
}

Status QuantizeFp8StochasticScalars(const LaunchContext& ctx, const GpuQuantizeJob& job) {
  return ForFloatType(
      job.x_dtype, [&](auto t) { return Start<StochasticEncoder, decltype(t), false>(ctx, job); });
}

}  // namespace kpt::KPT_BACKEND

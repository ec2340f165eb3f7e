// quantize_int8 on a GPU. Rules: kernels/quant/quantize_int8.h.
//
// Predicted on an H200 at 8192 x 8192 in bfloat16: as quantize_fp8, 47 us with a scale per row and
// 78 us with one measured scale; about 10 instructions an element fit beneath.
#include "kernels/quant/gpu/quantize_impl.h"

namespace kpt::KPT_BACKEND {

Status QuantizeInt8Vectors(const LaunchContext& ctx, const GpuQuantizeJob& job) {
  return ForFloatType(job.x_dtype,
                      [&](auto t) { return Start<Int8Encoder, decltype(t), true>(ctx, job); });
}

Status QuantizeInt8Scalars(const LaunchContext& ctx, const GpuQuantizeJob& job) {
  return ForFloatType(job.x_dtype,
                      [&](auto t) { return Start<Int8Encoder, decltype(t), false>(ctx, job); });
}

}  // namespace kpt::KPT_BACKEND

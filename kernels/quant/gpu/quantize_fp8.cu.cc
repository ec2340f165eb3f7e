// quantize_fp8 on a GPU, rounding to nearest. Rules: kernels/quant/quantize_fp8.h.
//
// Predicted on an H200 (copies reach 4.3 TB/s) at 8192 x 8192 in bfloat16, 134 MB read and 67 MB
// written: 47 us with a scale per row, 1x128 or 128x128 block, which are held in registers from
// measuring to encoding; 47 us with a given scale; 78 us with one measured scale, since all must be
// measured before any is encoded and the tensor is larger than the second-level cache. sm_80, which
// has no instruction for fp8, takes about 20 instructions an element, which its memory, at half the
// rate, still covers.
#include "kernels/quant/gpu/quantize_impl.h"

namespace kpt::KPT_BACKEND {

Status QuantizeFp8Vectors(const LaunchContext& ctx, const GpuQuantizeJob& job) {
  return ForFloatType(job.x_dtype,
                      [&](auto t) { return Start<NearestEncoder, decltype(t), true>(ctx, job); });
}

Status QuantizeFp8Scalars(const LaunchContext& ctx, const GpuQuantizeJob& job) {
  return ForFloatType(job.x_dtype,
                      [&](auto t) { return Start<NearestEncoder, decltype(t), false>(ctx, job); });
}

}  // namespace kpt::KPT_BACKEND

// fused_act_quantize on a GPU, for rows that are no 16-byte pieces.
#include "kernels/quant/gpu/fused_act_impl.h"

namespace kpt::KPT_BACKEND {

Status FusedActScalars(const LaunchContext& ctx, const GpuFusedJob& job) {
  return ForFloatType(job.x_dtype,
                      [&](auto t) { return StartFusedAct<decltype(t), false>(ctx, job); });
}

}  // namespace kpt::KPT_BACKEND

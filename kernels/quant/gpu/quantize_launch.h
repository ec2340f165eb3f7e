// What quantize_fp8 and quantize_int8 share on a GPU: checks, workspace and the choice of a kernel.
#ifndef KPT_KERNELS_QUANT_GPU_QUANTIZE_LAUNCH_H_
#define KPT_KERNELS_QUANT_GPU_QUANTIZE_LAUNCH_H_

#include <cstdint>
#include <vector>

#include "kernels/base/backend.h"
#include "kernels/base/launch_context.h"
#include "kernels/base/status.h"
#include "kernels/base/variant.h"
#include "kernels/quant/gpu/quantize_kernels.h"
#include "kernels/quant/quantize_checks.h"

namespace kpt::KPT_BACKEND {

// Checks `tensors` and fills the job but for its encoding and return_amax.
Status MakeQuantizeJob(const char* op, const QuantizeTensors& tensors, Granularity granularity,
                       GpuQuantizeJob* job);
Status RunQuantize(const LaunchContext& ctx, const GpuQuantizeJob& job);

std::vector<VariantInfo> QuantizeVariants();

}  // namespace kpt::KPT_BACKEND

#endif  // KPT_KERNELS_QUANT_GPU_QUANTIZE_LAUNCH_H_

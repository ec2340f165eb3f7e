// What quantize_fp8 and quantize_int8 share outside their loops.
#ifndef KPT_KERNELS_QUANT_CPU_QUANTIZE_LAUNCH_H_
#define KPT_KERNELS_QUANT_CPU_QUANTIZE_LAUNCH_H_

#include "kernels/base/launch_context.h"
#include "kernels/base/status.h"
#include "kernels/base/tensor_view.h"
#include "kernels/base/variant.h"
#include "kernels/quant/cpu/quantize_rows.h"
#include "kernels/quant/granularity.h"
#include "kernels/quant/quantize_checks.h"

namespace kpt::cpu {

// Checks, plans and runs. `spec` comes without measure_scale and stream.
Status RunQuantize(const char* op, const LaunchContext& ctx, const QuantizeTensors& tensors,
                   Granularity granularity, QuantSpec spec);

std::vector<VariantInfo> QuantizeVariants();

}  // namespace kpt::cpu

#endif  // KPT_KERNELS_QUANT_CPU_QUANTIZE_LAUNCH_H_

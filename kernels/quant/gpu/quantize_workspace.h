// The memory that quantize_fp8 and quantize_int8 need on a GPU besides their arguments: what
// LaunchContext::workspace must offer.
#ifndef KPT_KERNELS_QUANT_GPU_QUANTIZE_WORKSPACE_H_
#define KPT_KERNELS_QUANT_GPU_QUANTIZE_WORKSPACE_H_

#include <cstdint>

#include "kernels/base/backend.h"
#include "kernels/base/launch_context.h"
#include "kernels/quant/quantize_fp8.h"
#include "kernels/quant/quantize_int8.h"

namespace kpt::KPT_BACKEND {

// 0 unless one scale, or one amax, of a whole tensor is measured; also for arguments that the
// operators refuse.
int64_t QuantizeFp8WorkspaceBytes(const LaunchContext& ctx, const QuantizeFp8Args& args);
int64_t QuantizeInt8WorkspaceBytes(const LaunchContext& ctx, const QuantizeInt8Args& args);

}  // namespace kpt::KPT_BACKEND

#endif  // KPT_KERNELS_QUANT_GPU_QUANTIZE_WORKSPACE_H_

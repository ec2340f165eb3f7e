// The memory that quantize_fp8 needs on a GPU besides its arguments: what LaunchContext::workspace
// must offer.
#ifndef KPT_KERNELS_QUANT_GPU_QUANTIZE_FP8_H_
#define KPT_KERNELS_QUANT_GPU_QUANTIZE_FP8_H_

#include <cstdint>

#include "kernels/base/backend.h"
#include "kernels/base/launch_context.h"
#include "kernels/quant/quantize_fp8.h"

namespace kpt::KPT_BACKEND {

// 0 unless one scale, or one amax, of a whole tensor is measured; also for arguments that the
// operator refuses.
int64_t QuantizeFp8WorkspaceBytes(const LaunchContext& ctx, const QuantizeFp8Args& args);

}  // namespace kpt::KPT_BACKEND

#endif  // KPT_KERNELS_QUANT_GPU_QUANTIZE_FP8_H_

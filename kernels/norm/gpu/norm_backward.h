// The memory that the norms' gradients need on a GPU besides their arguments: what
// LaunchContext::workspace must offer. 0 when no gradient of a parameter is wanted.
#ifndef KPT_KERNELS_NORM_GPU_NORM_BACKWARD_H_
#define KPT_KERNELS_NORM_GPU_NORM_BACKWARD_H_

#include <cstdint>

#include "kernels/base/backend.h"
#include "kernels/base/launch_context.h"
#include "kernels/norm/layer_norm_backward.h"
#include "kernels/norm/rms_norm_backward.h"

namespace kpt::KPT_BACKEND {

// Also 0 for arguments that the operator refuses.
int64_t RmsNormBackwardWorkspaceBytes(const LaunchContext& ctx, const RmsNormBackwardArgs& args);
int64_t LayerNormBackwardWorkspaceBytes(const LaunchContext& ctx,
                                        const LayerNormBackwardArgs& args);

}  // namespace kpt::KPT_BACKEND

#endif  // KPT_KERNELS_NORM_GPU_NORM_BACKWARD_H_

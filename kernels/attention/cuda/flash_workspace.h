// The memory that attention_backward needs on a GPU besides its arguments: what
// LaunchContext::workspace must offer.
#ifndef KPT_KERNELS_ATTENTION_CUDA_FLASH_WORKSPACE_H_
#define KPT_KERNELS_ATTENTION_CUDA_FLASH_WORKSPACE_H_

#include <cstdint>

#include "kernels/attention/attention_backward.h"
#include "kernels/base/backend.h"
#include "kernels/base/launch_context.h"

namespace kpt::KPT_BACKEND {

int64_t AttentionBackwardWorkspaceBytes(const LaunchContext& ctx,
                                        const AttentionBackwardArgs& args);

}  // namespace kpt::KPT_BACKEND

#endif  // KPT_KERNELS_ATTENTION_CUDA_FLASH_WORKSPACE_H_

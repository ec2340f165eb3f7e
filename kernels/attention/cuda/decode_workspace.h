// The memory that attention_decode and attention_paged need on a GPU besides their arguments: what
// LaunchContext::workspace must offer.
#ifndef KPT_KERNELS_ATTENTION_CUDA_DECODE_WORKSPACE_H_
#define KPT_KERNELS_ATTENTION_CUDA_DECODE_WORKSPACE_H_

#include <cstdint>

#include "kernels/attention/attention_decode.h"
#include "kernels/base/backend.h"
#include "kernels/base/launch_context.h"

namespace kpt::KPT_BACKEND {

// Float [row tiles of all heads, pieces, 16, Dv + 2]; 0 for arguments that the operators refuse.
int64_t AttentionDecodeWorkspaceBytes(const LaunchContext& ctx, const AttentionDecodeArgs& args);

}  // namespace kpt::KPT_BACKEND

#endif  // KPT_KERNELS_ATTENTION_CUDA_DECODE_WORKSPACE_H_

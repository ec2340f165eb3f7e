// The kernels of softmax and its gradient, as its variants start them.
#ifndef KPT_KERNELS_ACTIVATION_GPU_SOFTMAX_KERNELS_H_
#define KPT_KERNELS_ACTIVATION_GPU_SOFTMAX_KERNELS_H_

#include "kernels/activation/softmax_job.h"
#include "kernels/base/backend.h"
#include "kernels/base/launch_context.h"
#include "kernels/base/status.h"

namespace kpt::KPT_BACKEND {

// 16-byte pieces that a thread holds, and the threads a row may have.
inline constexpr int kSoftmaxHeldVectors = 4;
inline constexpr int kSoftmaxMaxThreads = 1024;
inline constexpr int kSoftmaxBackwardMaxThreads = 512;  // two rows to hold

// Rows of 16-byte pieces, each held in the registers of its threads: one read of memory.
Status SoftmaxHeld(const LaunchContext& ctx, const SoftmaxJob& job);
// Such rows of any length: read a second time, from the caches as far as they reach.
Status SoftmaxLong(const LaunchContext& ctx, const SoftmaxJob& job);
// Rows of any length and alignment, element by element.
Status SoftmaxScalar(const LaunchContext& ctx, const SoftmaxJob& job);

// The same of the gradient.
Status SoftmaxBackwardHeld(const LaunchContext& ctx, const SoftmaxBackwardJob& job);
Status SoftmaxBackwardLong(const LaunchContext& ctx, const SoftmaxBackwardJob& job);
Status SoftmaxBackwardScalar(const LaunchContext& ctx, const SoftmaxBackwardJob& job);

}  // namespace kpt::KPT_BACKEND

#endif  // KPT_KERNELS_ACTIVATION_GPU_SOFTMAX_KERNELS_H_

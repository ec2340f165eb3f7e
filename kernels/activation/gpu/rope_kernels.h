// The kernels of rope, as its variants start them.
#ifndef KPT_KERNELS_ACTIVATION_GPU_ROPE_KERNELS_H_
#define KPT_KERNELS_ACTIVATION_GPU_ROPE_KERNELS_H_

#include "kernels/activation/rope_job.h"
#include "kernels/base/backend.h"
#include "kernels/base/launch_context.h"
#include "kernels/base/status.h"

namespace kpt::KPT_BACKEND {

// Pairs, and what passes through, in 16-byte pieces.
Status RopeVectors(const LaunchContext& ctx, const RopeJob& job);
// Element by element.
Status RopeScalars(const LaunchContext& ctx, const RopeJob& job);

}  // namespace kpt::KPT_BACKEND

#endif  // KPT_KERNELS_ACTIVATION_GPU_ROPE_KERNELS_H_

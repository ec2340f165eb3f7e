// The elementwise kernels of the activation family, as their variants start them.
#ifndef KPT_KERNELS_ACTIVATION_GPU_ACT_KERNELS_H_
#define KPT_KERNELS_ACTIVATION_GPU_ACT_KERNELS_H_

#include "kernels/activation/act_job.h"
#include "kernels/base/backend.h"
#include "kernels/base/launch_context.h"
#include "kernels/base/status.h"

namespace kpt::KPT_BACKEND {

enum class ActOp { kForward, kBackward, kMul, kMulBackward };

// Rows of 16-byte pieces.
Status ActVectors(const LaunchContext& ctx, ActOp op, const ActJob& job);
// Any rows, element by element.
Status ActScalars(const LaunchContext& ctx, ActOp op, const ActJob& job);

}  // namespace kpt::KPT_BACKEND

#endif  // KPT_KERNELS_ACTIVATION_GPU_ACT_KERNELS_H_

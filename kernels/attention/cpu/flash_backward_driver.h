// Threads, tasks and memory of attention_backward; the same for every kernel.
#ifndef KPT_KERNELS_ATTENTION_CPU_FLASH_BACKWARD_DRIVER_H_
#define KPT_KERNELS_ATTENTION_CPU_FLASH_BACKWARD_DRIVER_H_

#include "kernels/attention/cpu/flash_backward_problem.h"
#include "kernels/base/launch_context.h"
#include "kernels/base/status.h"

namespace kpt::cpu {

// `count` problems as in RunFlash.
Status RunFlashBackward(const LaunchContext& ctx, const FlashBackwardKernel& kernel,
                        const FlashBackwardProblem* problems, int64_t count);

}  // namespace kpt::cpu

#endif  // KPT_KERNELS_ATTENTION_CPU_FLASH_BACKWARD_DRIVER_H_

// Threads, tasks and memory of attention_forward; the same for every kernel.
#ifndef KPT_KERNELS_ATTENTION_CPU_FLASH_DRIVER_H_
#define KPT_KERNELS_ATTENTION_CPU_FLASH_DRIVER_H_

#include "kernels/attention/cpu/flash_problem.h"
#include "kernels/base/launch_context.h"
#include "kernels/base/status.h"

namespace kpt::cpu {

Status RunFlash(const LaunchContext& ctx, const FlashKernel& kernel, const FlashProblem& problem);

}  // namespace kpt::cpu

#endif  // KPT_KERNELS_ATTENTION_CPU_FLASH_DRIVER_H_

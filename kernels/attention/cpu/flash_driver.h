// Threads, tasks and memory of attention_forward; the same for every kernel.
#ifndef KPT_KERNELS_ATTENTION_CPU_FLASH_DRIVER_H_
#define KPT_KERNELS_ATTENTION_CPU_FLASH_DRIVER_H_

#include "kernels/attention/cpu/flash_problem.h"
#include "kernels/base/launch_context.h"
#include "kernels/base/status.h"

namespace kpt::cpu {

// `count` problems of one dtype and one number of columns: a batch of heads of equal lengths is one
// problem, packed sequences are one each.
Status RunFlash(const LaunchContext& ctx, const FlashKernel& kernel, const FlashProblem* problems,
                int64_t count);

// A mask that is the same for all queries of a KV head becomes one bias vector a task.
bool HasKeyMask(const FlashProblem& p);

// Room for that vector: kernels read whole vectors, behind the last key too.
size_t KeyBiasBytes(const FlashProblem& p);

// Sets the task's keys, without those at both ends that the mask hides, and its bias in `bias`.
void ApplyKeyMask(FlashKernel::FillMask fill_mask, const FlashProblem& p, float* bias,
                  FlashTask* task);

// Flops of one product over all pairs of a query and a key, for each column.
double PairFlops(const FlashProblem& p);

// Starting the other threads costs microseconds: how many this much work is worth.
int ThreadsWorth(const LaunchContext& ctx, double flops);

}  // namespace kpt::cpu

#endif  // KPT_KERNELS_ATTENTION_CPU_FLASH_DRIVER_H_

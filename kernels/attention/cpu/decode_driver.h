// Cuts attention_decode into units and pieces, and runs them on the threads.
#ifndef KPT_KERNELS_ATTENTION_CPU_DECODE_DRIVER_H_
#define KPT_KERNELS_ATTENTION_CPU_DECODE_DRIVER_H_

#include "kernels/attention/cpu/decode_problem.h"
#include "kernels/base/launch_context.h"
#include "kernels/base/status.h"

namespace kpt::cpu {

Status RunDecode(const LaunchContext& ctx, const DecodeKernel& kernel, const DecodeProblem& p);

}  // namespace kpt::cpu

#endif  // KPT_KERNELS_ATTENTION_CPU_DECODE_DRIVER_H_

// The kernels of attention over whole sequences, one a file and instruction set.
#ifndef KPT_KERNELS_ATTENTION_CPU_FLASH_KERNELS_H_
#define KPT_KERNELS_ATTENTION_CPU_FLASH_KERNELS_H_

#include "kernels/attention/cpu/flash_backward_problem.h"
#include "kernels/attention/cpu/flash_problem.h"

namespace kpt::cpu {

// Float arithmetic, for float32, float16 and bfloat16 tensors.
namespace baseline {
FlashKernel FloatFlashKernel();
FlashBackwardKernel FloatFlashBackwardKernel();
}  // namespace baseline
namespace avx2 {
FlashKernel FloatFlashKernel();
FlashBackwardKernel FloatFlashBackwardKernel();
}  // namespace avx2
namespace avx512 {
FlashKernel FloatFlashKernel();
FlashBackwardKernel FloatFlashBackwardKernel();
}  // namespace avx512
// bfloat16 products summed in float, for bfloat16 tensors.
namespace avx512_bf16 {
FlashKernel BFloat16FlashKernel();
FlashBackwardKernel BFloat16FlashBackwardKernel();
}  // namespace avx512_bf16
namespace amx {
FlashKernel BFloat16FlashKernel();
}

}  // namespace kpt::cpu

#endif  // KPT_KERNELS_ATTENTION_CPU_FLASH_KERNELS_H_

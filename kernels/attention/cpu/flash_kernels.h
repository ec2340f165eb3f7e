// The kernels of attention_forward, one a file and instruction set.
#ifndef KPT_KERNELS_ATTENTION_CPU_FLASH_KERNELS_H_
#define KPT_KERNELS_ATTENTION_CPU_FLASH_KERNELS_H_

#include "kernels/attention/cpu/flash_problem.h"

namespace kpt::cpu {

// Float arithmetic, for float32, float16 and bfloat16 tensors.
namespace baseline {
FlashKernel FloatFlashKernel();
}
namespace avx2 {
FlashKernel FloatFlashKernel();
}
namespace avx512 {
FlashKernel FloatFlashKernel();
}
// bfloat16 products summed in float, for bfloat16 tensors.
namespace avx512_bf16 {
FlashKernel BFloat16FlashKernel();
}
namespace amx {
FlashKernel BFloat16FlashKernel();
}

}  // namespace kpt::cpu

#endif  // KPT_KERNELS_ATTENTION_CPU_FLASH_KERNELS_H_

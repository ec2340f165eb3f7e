// attention_backward for bfloat16 with vdpbf16ps.
#define KPT_SIMD_NS avx512_bf16

#include "kernels/attention/cpu/flash_backward.h"
#include "kernels/attention/cpu/flash_kernels.h"

namespace kpt::cpu::KPT_SIMD_NS {

FlashBackwardKernel BFloat16FlashBackwardKernel() { return FlashBackward<uint16_t>::Kernel(); }

}  // namespace kpt::cpu::KPT_SIMD_NS

// attention_forward for bfloat16 with vdpbf16ps.
#define KPT_SIMD_NS avx512_bf16

#include "kernels/attention/cpu/flash_kernels.h"
#include "kernels/attention/cpu/register_tile.h"

namespace kpt::cpu::KPT_SIMD_NS {

FlashKernel BFloat16FlashKernel() {
  return FlashForward<RegisterTile<uint16_t>>::Kernel(nullptr, nullptr);
}

}  // namespace kpt::cpu::KPT_SIMD_NS

// attention_forward in float arithmetic, portable SIMD; compiled once per instruction set.
#include "kernels/attention/cpu/flash_kernels.h"
#include "kernels/attention/cpu/register_tile.h"

HWY_BEFORE_NAMESPACE();
namespace kpt::cpu::KPT_SIMD_NS {

FlashKernel FloatFlashKernel() {
  return FlashForward<RegisterTile<float>>::Kernel(nullptr, nullptr);
}

}  // namespace kpt::cpu::KPT_SIMD_NS
HWY_AFTER_NAMESPACE();

// attention_backward in float arithmetic, portable SIMD; compiled once per instruction set.
#include "kernels/attention/cpu/flash_backward.h"
#include "kernels/attention/cpu/flash_kernels.h"

HWY_BEFORE_NAMESPACE();
namespace kpt::cpu::KPT_SIMD_NS {

FlashBackwardKernel FloatFlashBackwardKernel() { return FlashBackward<float>::Kernel(); }

}  // namespace kpt::cpu::KPT_SIMD_NS
HWY_AFTER_NAMESPACE();

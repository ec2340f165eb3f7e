// attention_forward for bfloat16 on AMX tiles.
#define KPT_SIMD_NS amx

#include "kernels/attention/cpu/amx_tile.h"
#include "kernels/attention/cpu/flash_kernels.h"

namespace kpt::cpu::KPT_SIMD_NS {

FlashKernel BFloat16FlashKernel() {
  return FlashForward<AmxTile>::Kernel(AmxTile::Configure, AmxTile::Release);
}

}  // namespace kpt::cpu::KPT_SIMD_NS

// attention_decode in float arithmetic, portable SIMD; compiled once per instruction set.
#include "kernels/attention/cpu/decode_kernels.h"
#include "kernels/attention/cpu/decode_rows.h"

HWY_BEFORE_NAMESPACE();
namespace kpt::cpu::KPT_SIMD_NS {

DecodeKernel FloatDecodeKernel() {
  DecodeKernel kernel;
  kernel.state_bytes = [] { return sizeof(DecodeState); };
  kernel.padded_dim = DecodePaddedDim;
  kernel.begin = DecodeBegin;
  kernel.piece = DecodePiece;
  kernel.fold = DecodeFold;
  kernel.finish = DecodeFinish;
  return kernel;
}

}  // namespace kpt::cpu::KPT_SIMD_NS
HWY_AFTER_NAMESPACE();

// attention_decode in float arithmetic, portable SIMD; compiled once per instruction set.
#include "kernels/attention/cpu/decode_kernels.h"
#include "kernels/attention/cpu/decode_rows.h"

HWY_BEFORE_NAMESPACE();
namespace kpt::cpu::KPT_SIMD_NS {
namespace {

void DecodePiece(const DecodeProblem& p, const DecodeUnit& unit, KeyRange range, void* state,
                 const DecodePartial& result) {
  switch (p.cache_dtype) {
    case DType::kFloat32:
      return DecodePieceOf<FloatMath<float>>(p, unit, range, state, result);
    case DType::kFloat16:
      return DecodePieceOf<FloatMath<Half>>(p, unit, range, state, result);
    case DType::kInt8:
      return DecodePieceOf<FloatMath<int8_t>>(p, unit, range, state, result);
    case DType::kFloat8E4M3FN:
      return DecodePieceOf<FloatMath<E4M3Code>>(p, unit, range, state, result);
    default:
      return DecodePieceOf<FloatMath<BFloat16>>(p, unit, range, state, result);
  }
}

}  // namespace

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

// dequantize_fp8: out = x_q * scale, in float, rounded to out's dtype.
#ifndef KPT_KERNELS_QUANT_DEQUANTIZE_FP8_H_
#define KPT_KERNELS_QUANT_DEQUANTIZE_FP8_H_

#include <vector>

#include "kernels/base/backend.h"
#include "kernels/base/launch_context.h"
#include "kernels/base/status.h"
#include "kernels/base/tensor_view.h"
#include "kernels/base/variant.h"
#include "kernels/quant/granularity.h"

namespace kpt::KPT_BACKEND {

struct DequantizeFp8Args {
  MutableTensorView out;  // x_q's shape; float, half or bfloat16
  TensorView x_q;         // [..., K] E4M3FN or E5M2; rank >= 1
  TensorView scale;       // float; its shape tells the granularity (see below)
};

// The scale's rank tells the granularity: 0 is kTensor, one less than x_q's is kRow; of x_q's own
// rank it is kBlock1x128 if the next to last sizes agree, else kBlock128x128. (With one row or none
// both blocks mean the same.)
//
// Last dimensions dense, leading strides free; out overlaps nothing. At avx512_bf16, bfloat16
// results below 2^-126 become 0 (simd_io.h). Fails with kInvalidArgument or kTypeError before
// anything is written.
Status DequantizeFp8(const LaunchContext& ctx, const DequantizeFp8Args& args);

std::vector<VariantInfo> DequantizeFp8Variants();

}  // namespace kpt::KPT_BACKEND

#endif  // KPT_KERNELS_QUANT_DEQUANTIZE_FP8_H_

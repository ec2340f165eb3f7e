// quantize_fp8: x_q = fp8(x / scale), scale measured or given.
//
//   amax   the largest |x| of a group that shares a scale, NaN left out
//   scale  amax over the format's largest number (448 for E4M3FN, 57344 for E5M2), but at least
//          2^-126; 1 for a group of zeros (or empty, or all NaN); NaN for one with an infinity
//   x_q    x * (1 / scale), both in float, rounded once: to nearest even, or stochastically
//
// Rounding saturates: what lies beyond the largest number, infinities included, becomes that
// number (OCP 8-bit floating point specification, saturating mode). NaN stays NaN with its sign.
#ifndef KPT_KERNELS_QUANT_QUANTIZE_FP8_H_
#define KPT_KERNELS_QUANT_QUANTIZE_FP8_H_

#include <vector>

#include "kernels/base/backend.h"
#include "kernels/base/launch_context.h"
#include "kernels/base/status.h"
#include "kernels/base/tensor_view.h"
#include "kernels/base/variant.h"
#include "kernels/quant/granularity.h"

namespace kpt::KPT_BACKEND {

struct QuantizeFp8Args {
  MutableTensorView x_q;        // x's shape; its dtype, E4M3FN or E5M2, is the format
  MutableTensorView scale_out;  // float; shape: granularity.h
  TensorView x;                 // [..., K] float, half or bfloat16; rank >= 1 (kBlock128x128: 2)
  TensorView scale;             // optional, like scale_out: used instead of measuring, and copied
  Granularity granularity = Granularity::kTensor;
  // Rounds up or down at random, so that the mean is the number itself. The bits of element i, in
  // row-major order of the shape, are word i of Philox4x32-10 with key `seed`: they depend on
  // neither strides nor threads.
  bool stochastic = false;
  uint64_t seed = 0;
  // With a given scale: scale_out gets amax instead of the scale (delayed scaling wants it).
  bool return_amax = false;
};

// Last dimensions dense, leading strides free; outputs overlap nothing. A row's result depends on
// other rows through a shared scale only. Fails with kInvalidArgument or kTypeError before anything
// is written.
Status QuantizeFp8(const LaunchContext& ctx, const QuantizeFp8Args& args);

std::vector<VariantInfo> QuantizeFp8Variants();

}  // namespace kpt::KPT_BACKEND

#endif  // KPT_KERNELS_QUANT_QUANTIZE_FP8_H_

// quantize_int8: x = (x_q - zero_point) * scale, scale (and zero point) measured or given.
//
//   symmetric   scale = max |x| / 127, zero_point = 0, x_q = round(x / scale) in [-127, 127]
//   asymmetric  lo = min(x, 0), hi = max(x, 0), scale = (hi - lo) / 255,
//               zero_point = -128 - round(lo / scale), x_q = round(x / scale) + zero_point in
//               [-128, 127]; zero is exact
//
// Rounding is to nearest even, x / scale is x * (1 / scale) in float, and (hi - lo) / 255 is
// (hi / 2 - lo / 2) / 127.5, which does not overflow. A scale is at least 2^-126; a group of zeros
// has 1. int8 has no NaN: a group with NaN or an infinity has scale NaN and x_q = zero_point = 0;
// under a given scale NaN becomes zero_point, and infinities saturate.
#ifndef KPT_KERNELS_QUANT_QUANTIZE_INT8_H_
#define KPT_KERNELS_QUANT_QUANTIZE_INT8_H_

#include <vector>

#include "kernels/base/backend.h"
#include "kernels/base/launch_context.h"
#include "kernels/base/status.h"
#include "kernels/base/tensor_view.h"
#include "kernels/base/variant.h"
#include "kernels/quant/granularity.h"

namespace kpt::KPT_BACKEND {

struct QuantizeInt8Args {
  MutableTensorView x_q;             // int8, x's shape
  MutableTensorView scale_out;       // float; shape: granularity.h
  MutableTensorView zero_point_out;  // int32, scale's shape
  TensorView x;                      // [..., K] float, half or bfloat16; rank >= 1
  TensorView scale;                  // optional, like scale_out: used instead of measuring
  TensorView zero_point;             // with scale when asymmetric, else absent
  Granularity granularity = Granularity::kRow;  // kTensor or kRow
  bool symmetric = true;
};

// As quantize_fp8.h.
Status QuantizeInt8(const LaunchContext& ctx, const QuantizeInt8Args& args);

std::vector<VariantInfo> QuantizeInt8Variants();

}  // namespace kpt::KPT_BACKEND

#endif  // KPT_KERNELS_QUANT_QUANTIZE_INT8_H_

// int8_gemm: y = (scale_a (a - zero_point_a)) (scale_b b)^T + bias, both factors int8 as stored.
//
//   y[m, n] = scale_a[m] * scale_b[n] * sum_k (a[m, k] - zero_point_a[m]) b[n, k] + bias[n]
//
// scale_a is [] or [M], scale_b [] or [N]; zero_point_a [M] int32, or absent for symmetric
// activations.
//
// The sums of a b are exact: 32-bit integers, which bounds K (kMaxInt8GemmK, where -128 * -128 in
// every place would be one too many). So is what a zero point takes off, for any zero point: it is
// taken off in double, sum_k a b - zero_point_a sum_k b, before the one rounding to float. Scales
// and bias follow in float; results are rounded to the dtype of out. A row of out therefore depends
// on nothing but its own row of a: every variant gives the same sums.
#ifndef KPT_KERNELS_GEMM_INT8_GEMM_H_
#define KPT_KERNELS_GEMM_INT8_GEMM_H_

#include <vector>

#include "kernels/base/launch_context.h"
#include "kernels/base/status.h"
#include "kernels/base/tensor_view.h"
#include "kernels/base/variant.h"

namespace kpt::cpu {

inline constexpr int64_t kMaxInt8GemmK = (int64_t{1} << 17) - 1;

struct Int8GemmArgs {
  MutableTensorView out;    // [M, N] float32, float16 or bfloat16; rows dense
  TensorView a;             // [M, K] int8; rows dense
  TensorView b;             // [N, K] int8; rows dense
  TensorView scale_a;       // [] or [M] float32, any stride
  TensorView scale_b;       // [] or [N] float32, any stride
  TensorView bias;          // optional [N] float32, float16 or bfloat16, dense
  TensorView zero_point_a;  // optional [M] int32, any stride
};

// Any sizes, 0 included (over K = 0 the sum is the bias). out must not overlap the inputs.
Status Int8Gemm(const LaunchContext& ctx, const Int8GemmArgs& args);

std::vector<VariantInfo> Int8GemmVariants();

}  // namespace kpt::cpu

#endif  // KPT_KERNELS_GEMM_INT8_GEMM_H_

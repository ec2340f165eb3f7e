// fp8_gemm: y = activation((a_scale a) (b_scale b)^T + bias), both factors fp8 as stored.
//
//   t[m, n] = sum_k scale_a(m, k) a[m, k] * scale_b(n, k) b[n, k] + bias[n]
//   y = act(t)                     none, relu, gelu, gelu_tanh, silu
//   y = act(t[:, :N/2]) * t[:, N/2:]    swiglu, geglu: the rows of b have the gate first
//
// A scale's shape says what it belongs to:
//   scale_a  []  the tensor    [M]  each row    [M, ceil(K/128)]            1 x 128 blocks
//   scale_b  []  the tensor    [N]  each row    [ceil(N/128), ceil(K/128)]  128 x 128 blocks
// Any of a goes with any of b.
//
// Codes are decoded exactly: both formats fit bfloat16, whose pairs are multiplied and added in
// float where the CPU has such instructions (AVX512-BF16, AMX; they take subnormal sums as zero);
// elsewhere everything is float. Sums start anew every 128 k when a scale does, else every 256 to
// 2048 (each variant at places of its own), and are scaled when they are added to what there is.
// Results are rounded once, to the dtype of out.
//
// Order of summation: within a variant a row of out depends neither on the number of threads nor on
// the other rows. "avx512_bf16_rows" serves few rows of a and sums them in another order than
// "..._tiles", so a row's last bits may change when M crosses its limit.
#ifndef KPT_KERNELS_GEMM_FP8_GEMM_H_
#define KPT_KERNELS_GEMM_FP8_GEMM_H_

#include <vector>

#include "kernels/base/activation_kind.h"
#include "kernels/base/launch_context.h"
#include "kernels/base/status.h"
#include "kernels/base/tensor_view.h"
#include "kernels/base/variant.h"

namespace kpt::cpu {

inline constexpr int64_t kFp8Block = 128;

struct Fp8GemmArgs {
  MutableTensorView out;  // [M, N] (gated: [M, N/2]) float32, float16 or bfloat16; rows dense
  TensorView a;           // [M, K] float8_e4m3fn or float8_e5m2; rows dense
  TensorView b;           // [N, K] float8_e4m3fn or float8_e5m2; rows dense
  TensorView scale_a;     // float32, any strides
  TensorView scale_b;     // float32, any strides
  TensorView bias;        // optional [N] float32, float16 or bfloat16, dense
  ActivationKind activation = ActivationKind::kNone;
};

// Any sizes, 0 included (over K = 0 the sum is the bias). out must not overlap the inputs.
Status Fp8Gemm(const LaunchContext& ctx, const Fp8GemmArgs& args);

std::vector<VariantInfo> Fp8GemmVariants();

}  // namespace kpt::cpu

#endif  // KPT_KERNELS_GEMM_FP8_GEMM_H_

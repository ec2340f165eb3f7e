// packed_linear: y = activation(x W^T + bias) with W as pack_weight left it.
//
//   y[m, n] = act(scale[n] * sum_k x[m, k] * q[n, k] + bias[n])
//
// (int4: the sum over the groups j of scale[j, n] * sum_(k in j) x[m, k] * (c[n, k] - z[j, n])).
//
// Weight-only (the default): q (int4: c - z) is decoded exactly. For bfloat16 x the products are of
// bf16 pairs summed in fp32; for float32 and float16 x everything is fp32. fp32-format weights are
// used as fp32 whatever x is. Results are rounded once, to the dtype of x.
//
// compute = int8 (formats int8 and int4): each row of x is quantized on the fly to unsigned 8 bit,
//   lo = min(x, 0), hi = max(x, 0) over the row, s = hi / 255 - lo / 255, z = rint(-lo / s),
//   u = clamp(rint(x * (1 / s)) + z, 0, 255)         (all in fp32, nearest even)
//   y[m, n] = act(scale[n] * s * (sum_k u q - z * sum_k q) + bias[n])
// (int4: s times the sum of such products over the groups). The sums over k are exact integers, so
// every variant gives the same ones. A row with s below the
// smallest normal fp32 counts as zeros; a row with a NaN or an infinity gives NaN in all outputs.
// K is at most 32768 there: the sums then fit 32 bits with room for the zero point.
//
// Order of summation: a row of y depends neither on the number of threads nor on the other rows.
// Weight-only kernels sum few rows (at most 16) in another order than many, so a row's last bits
// may change when M crosses that number.
//
// Gated activations (swiglu, geglu): rows [0, N/2) of W are the gate, [N/2, N) the other factor,
// y [M, N/2] = act(gate) * up; N must be even.
#ifndef KPT_KERNELS_GEMM_PACKED_LINEAR_H_
#define KPT_KERNELS_GEMM_PACKED_LINEAR_H_

#include <vector>

#include "kernels/base/activation_kind.h"
#include "kernels/base/launch_context.h"
#include "kernels/base/status.h"
#include "kernels/base/tensor_view.h"
#include "kernels/base/variant.h"
#include "kernels/gemm/pack_weight.h"

namespace kpt {

enum class PackedCompute { kWeightOnly, kInt8 };

// "weight_only" or "int8"; false otherwise.
bool ParsePackedCompute(const char* name, PackedCompute* compute);

namespace cpu {

inline constexpr int64_t kMaxInt8ComputeK = 32768;

struct PackedLinearArgs {
  MutableTensorView out;     // [..., N] (gated: N/2), dtype of x, rows dense and at one stride
  TensorView x;              // [..., K] float32, float16 or bfloat16, last dimension dense
  TensorView packed;         // [P, E] from pack_weight, last dimension dense
  TensorView scale;          // [N] float32, int4: [groups, N]; last dimension dense
  int64_t out_features = 0;  // N
  PackFormat format = PackFormat::kBf16;
  TensorView bias;  // optional [N], dtype of x
  ActivationKind activation = ActivationKind::kNone;
  int64_t group_size = -1;
  PackedCompute compute = PackedCompute::kWeightOnly;
};

// out must not overlap the inputs. Leading dimensions of x may have any strides: rows that no
// single stride walks are copied first, and so are panels that have gaps between them or do not
// start at a multiple of 64 bytes.
Status PackedLinear(const LaunchContext& ctx, const PackedLinearArgs& args);
std::vector<VariantInfo> PackedLinearVariants();

}  // namespace cpu
}  // namespace kpt

#endif  // KPT_KERNELS_GEMM_PACKED_LINEAR_H_

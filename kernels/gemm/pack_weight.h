// pack_weight: a linear layer's weight, rearranged (and quantized) once for packed_linear.
//
// The packed form is an ordinary tensor with one documented layout per format, the same on every
// processor, so that it can be saved on one machine and used on another:
//
//   packed [P, E], P = ceil(N / 64) panels of 64 outputs, E elements each. A panel is a table of
//   dwords [G][64]: column n of the table belongs to output 64 * p + n, row g to a group of
//   consecutive inputs k. Outputs past N and inputs past K hold zeros.
//
//   format    dtype of packed  a dword holds                   G                          E
//   fp32      float32          w[k], k = g                     K rounded up to 16         64 G
//   bf16      bfloat16         w[k], w[k+1], k = 2 g           ceil(K/2) rounded up to 16 128 G
//   int8      int8             q[k], q[k+2], q[k+1], q[k+3],   ceil(K/4) rounded up to 16 256 (G+1)
//                              k = 4 g
//   fp8_e4m3, uint8            the codes of the same four k    ceil(K/4) rounded up to 16 256 G
//   fp8_e5m2
//   int4      uint8            eight q, 4 bits each, k = 8 g   ceil(K/8) rounded up to 16 256 G,
//                                                                      or 256 G + 64 groups
//
//   The order k, k+2, k+1, k+3 of the bytes in a dword puts (k, k+1) in the even bytes and
//   (k+2, k+3) in the odd ones: 16-bit shifts then give pairs of consecutive inputs, which is what
//   the bf16 and int16 dot instructions take, while 8-bit dot instructions and tiles take the
//   dword as it is (the other factor is quantized on the fly, in the same order).
//
//   int8: behind the table, row G holds 64 int32: the sum of q over k for each output (the
//   correction for activations with a zero point).
//
//   int4: the low halves of a dword's bytes are what int8's row 2 g would hold, the high halves
//   what its row 2 g + 1 would, in two's complement. With zero points, a byte table [groups][64]
//   of them lies behind: the zero point of group j of output 64 p + n.
//
// scale [N] float32; a weight is q * scale[n]. For fp32 and bf16, which store weights themselves,
// scale is ones (packed_linear does not read it then).
//   int8: scale = max |w[n, :]| / 127, q = w / scale rounded to nearest even, |q| <= 127.
//   fp8:  scale = max |w[n, :]| / 448 (e4m3) or / 57344 (e5m2), code = fp8(w / scale), nearest
//         even, saturating, NaN kept (OCP FP8 specification).
//   A row of zeros gets scale 1. int8 has no NaN: a row with a NaN or an infinity gets scale NaN
//   (every product with it is NaN); for fp8 an infinite row's scale is NaN and a NaN weight stays
//   a NaN weight. A given scale is used as it is: q saturates, NaN becomes 0 in int8.
//
// int4: scale [groups, N] float32, one for every group of group_size inputs of an output (32, 64,
// 128; the last may be shorter), or for all of them (-1; groups is 1). As published 4-bit
// checkpoints have it, with unsigned codes c = q + 8 and zero points z from 0 to 16:
//   weight = (c - z) * scale,   c = rint(w / scale + z) between 0 and 15, NaN becomes 8
//   symmetric: z = 8 throughout, and not stored; scale = max |w| / 7.5 over the group.
//   otherwise: lo = min(w, 0), hi = max(w, 0) over the group, scale = hi / 15 - lo / 15,
//              z = rint(-lo / scale).
// A group of zeros gets scale 1 and, where there is one, z 0; a group with a NaN or an infinity
// gets scale NaN.
#ifndef KPT_KERNELS_GEMM_PACK_WEIGHT_H_
#define KPT_KERNELS_GEMM_PACK_WEIGHT_H_

#include <vector>

#include "kernels/base/launch_context.h"
#include "kernels/base/status.h"
#include "kernels/base/tensor_view.h"
#include "kernels/base/variant.h"

namespace kpt {

enum class PackFormat { kFp32, kBf16, kInt8, kFp8E4M3, kFp8E5M2, kInt4 };

// False when the name is not a supported format; *format is then left as it was.
bool ParsePackFormat(const char* name, PackFormat* format);
const char* Name(PackFormat format);
// "bf16, fp32, int8, ...", for messages.
const char* SupportedPackFormats();

// Whether weights are stored as values of 8 or 4 bits and a scale.
bool IsQuantized(PackFormat format);

// Whether `group_size` is one that the format has: -1, and 32, 64, 128 for int4.
bool IsGroupSize(PackFormat format, int64_t group_size);

// Groups of k inputs.
int64_t PackedGroups(int64_t k, int64_t group_size);

inline constexpr int kLargestZeroPoint = 16;

// Sizes of the packed tensor.
DType PackedDType(PackFormat format);
int64_t PackedPanels(int64_t n);
// zero_groups: the groups of an int4 weight with zero points.
int64_t PackedPanelElements(PackFormat format, int64_t k, int64_t zero_groups = 0);

namespace cpu {

struct PackWeightArgs {
  MutableTensorView packed;     // [P, E] of PackedDType; last dimension dense
  MutableTensorView scale_out;  // [N] float32, int4: [groups, N]; last dimension dense
  TensorView weight;            // [N, K] float32, float16 or bfloat16; last dimension dense
  PackFormat format = PackFormat::kBf16;
  TensorView scale;         // optional, like scale_out; quantized formats only
  int64_t group_size = -1;  // -1: one scale per output; int4 also 32, 64, 128
  TensorView zero_point;    // optional [groups, N] uint8, at most 16; int4 with a scale only
  bool symmetric = true;    // false: make zero points; int4 without a scale only
};

// packed and scale_out must not overlap the inputs.
Status PackWeight(const LaunchContext& ctx, const PackWeightArgs& args);
std::vector<VariantInfo> PackWeightVariants();

}  // namespace cpu
}  // namespace kpt

#endif  // KPT_KERNELS_GEMM_PACK_WEIGHT_H_

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
//   fp8_e4m3  uint8            the codes of the same four k    ceil(K/4) rounded up to 16 256 G
//
//   The order k, k+2, k+1, k+3 of the bytes in a dword puts (k, k+1) in the even bytes and
//   (k+2, k+3) in the odd ones: 16-bit shifts then give pairs of consecutive inputs, which is what
//   the bf16 and int16 dot instructions take, while 8-bit dot instructions and tiles take the
//   dword as it is (the other factor is quantized on the fly, in the same order).
//
//   int8: behind the table, row G holds 64 int32: the sum of q over k for each output (the
//   correction for activations with a zero point).
//
// scale [N] float32; a weight is q * scale[n]. For fp32 and bf16, which store weights themselves,
// scale is ones (packed_linear does not read it then).
//   int8:     scale = max |w[n, :]| / 127, q = w / scale rounded to nearest even, |q| <= 127.
//   fp8_e4m3: scale = max |w[n, :]| / 448, code = e4m3(w / scale), nearest even, saturating,
//             NaN kept (OCP FP8 specification).
//   A row of zeros gets scale 1. int8 has no NaN: a row with a NaN or an infinity gets scale NaN
//   (every product with it is NaN); for fp8 an infinite row's scale is NaN and a NaN weight stays
//   a NaN weight. A given scale is used as it is: q saturates, NaN becomes 0 in int8.
#ifndef KPT_KERNELS_GEMM_PACK_WEIGHT_H_
#define KPT_KERNELS_GEMM_PACK_WEIGHT_H_

#include <vector>

#include "kernels/base/launch_context.h"
#include "kernels/base/status.h"
#include "kernels/base/tensor_view.h"
#include "kernels/base/variant.h"

namespace kpt {

enum class PackFormat { kFp32, kBf16, kInt8, kFp8E4M3 };

// False when the name is not a supported format; *format is then left as it was.
bool ParsePackFormat(const char* name, PackFormat* format);
const char* Name(PackFormat format);
// "bf16, fp32, int8, fp8_e4m3", for messages.
const char* SupportedPackFormats();

// Whether weights are stored as 8-bit values and a scale.
bool IsQuantized(PackFormat format);

// Sizes of the packed tensor.
DType PackedDType(PackFormat format);
int64_t PackedPanels(int64_t n);
int64_t PackedPanelElements(PackFormat format, int64_t k);

namespace cpu {

struct PackWeightArgs {
  MutableTensorView packed;     // [P, E] of PackedDType; last dimension dense
  MutableTensorView scale_out;  // [N] float32, dense
  TensorView weight;            // [N, K] float32, float16 or bfloat16; last dimension dense
  PackFormat format = PackFormat::kBf16;
  TensorView scale;         // optional [N] float32, dense; int8 and fp8_e4m3 only
  int64_t group_size = -1;  // only -1: one scale per output
};

// packed and scale_out must not overlap the inputs.
Status PackWeight(const LaunchContext& ctx, const PackWeightArgs& args);
std::vector<VariantInfo> PackWeightVariants();

}  // namespace cpu
}  // namespace kpt

#endif  // KPT_KERNELS_GEMM_PACK_WEIGHT_H_

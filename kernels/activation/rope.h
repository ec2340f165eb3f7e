// rope: rotary position embedding of queries and keys (Su et al. 2021).
//
// Pairs (a, b) of each row turn by the angle of their position:
//   (a, b) -> (a cos - b sin, b cos + a sin).
// A pair is (x[i], x[i + R]) with R pairs ("neox": the two halves of what is rotated), or
// (x[2 i], x[2 i + 1]) when interleaved. Elements from 2 R on pass through.
#ifndef KPT_KERNELS_ACTIVATION_ROPE_H_
#define KPT_KERNELS_ACTIVATION_ROPE_H_

#include <vector>

#include "kernels/base/backend.h"
#include "kernels/base/launch_context.h"
#include "kernels/base/status.h"
#include "kernels/base/tensor_view.h"
#include "kernels/base/variant.h"

namespace kpt::KPT_BACKEND {

struct RopeArgs {
  MutableTensorView out_q;  // q's shape and dtype
  MutableTensorView out_k;  // k's shape and dtype
  TensorView q;             // [B, Hq, S, D] float, half or bfloat16
  TensorView k;             // [B, Hk, S, D], q's dtype
  TensorView cos;           // [S, R], [1, S, R] or [B, S, R] with 2 R <= D; q's dtype or float
  TensorView sin;           // cos's shape and dtype
  bool interleaved = false;
  bool inverse = false;  // turns back: by minus the angles
};

// Unless interleaved, the tables may also be twice as wide, [..., 2 R] with D / 2 < 2 R <= D: their
// second halves repeat the first and are not read.
//
// Last dimensions dense, other strides free. out_q may be exactly q and out_k exactly k, also where
// these are parts of one tensor; any other overlap is refused. Computed in float and rounded once.
// Fails with kInvalidArgument or kTypeError before anything is written.
Status Rope(const LaunchContext& ctx, const RopeArgs& args);

std::vector<VariantInfo> RopeVariants();

}  // namespace kpt::KPT_BACKEND

#endif  // KPT_KERNELS_ACTIVATION_ROPE_H_

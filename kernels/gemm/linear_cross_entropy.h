// linear_cross_entropy: the loss of a linear classifier, logits = hidden weight^T, without ever
// storing its logits [N, V]. Formula of the loss: kernels/loss/cross_entropy.h.
//
// Logits are made a block of rows and classes at a time, in float (never rounded to a narrower
// type), and each block is taken into the online logsumexp of its rows (Wijmans et al., "Cut Your
// Losses in Large-Vocabulary Language Models", 2024).
#ifndef KPT_KERNELS_GEMM_LINEAR_CROSS_ENTROPY_H_
#define KPT_KERNELS_GEMM_LINEAR_CROSS_ENTROPY_H_

#include <vector>

#include "kernels/base/cross_entropy_rows.h"
#include "kernels/base/launch_context.h"
#include "kernels/base/status.h"
#include "kernels/base/tensor_view.h"
#include "kernels/base/variant.h"

namespace kpt::cpu {

struct LinearCrossEntropyArgs {
  const char* op = "linear_cross_entropy";  // for messages
  MutableTensorView loss;                   // float: [N] without a reduction, else []
  MutableTensorView lse;                    // optional: float [N]
  TensorView hidden;                        // [N, D] float, half or bfloat16, rows dense
  TensorView weight;                        // [V, D], dtype of hidden, rows dense
  TensorView target;                        // [N] int64, each in [0, V) or options.ignore_index
  CrossEntropyOptions options;
};

// Workspace: 4 (512 + 48) bytes for each of at most 1024 rows, 32 bytes for every row, and the
// panels of the products (panel_nest.h); nothing of size N V or V D.
//
// Within a variant a row's loss depends neither on the number of threads nor on the rows around it
// (outside the bf16 variants, up to three rows are summed more exactly than many). bfloat16 as in
// linear_act.h. Fails as CrossEntropy does.
Status LinearCrossEntropy(const LaunchContext& ctx, const LinearCrossEntropyArgs& args);

std::vector<VariantInfo> LinearCrossEntropyVariants();

}  // namespace kpt::cpu

#endif  // KPT_KERNELS_GEMM_LINEAR_CROSS_ENTROPY_H_

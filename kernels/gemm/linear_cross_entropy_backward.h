// linear_cross_entropy_backward: the gradients of hidden and weight, from those of the loss and of
// lse. With grad = d loss / d logits as in kernels/loss/cross_entropy_backward.h,
//
//   grad_hidden = grad weight          grad_weight = grad^T hidden
//
// where blocks of the logits, and from them of grad, are made again: four products of the size of
// the forward's one, in place of three, and no memory of size N V.
#ifndef KPT_KERNELS_GEMM_LINEAR_CROSS_ENTROPY_BACKWARD_H_
#define KPT_KERNELS_GEMM_LINEAR_CROSS_ENTROPY_BACKWARD_H_

#include <vector>

#include "kernels/base/cross_entropy_rows.h"
#include "kernels/base/launch_context.h"
#include "kernels/base/status.h"
#include "kernels/base/tensor_view.h"
#include "kernels/base/variant.h"

namespace kpt::cpu {

struct LinearCrossEntropyBackwardArgs {
  // Those not given are not computed.
  MutableTensorView grad_hidden;  // [N, D], dtype of hidden, rows dense
  MutableTensorView grad_weight;  // [V, D], dtype of weight, rows dense
  TensorView hidden;              // as in LinearCrossEntropyArgs
  TensorView weight;              // as in LinearCrossEntropyArgs
  TensorView target;              // as in LinearCrossEntropyArgs
  TensorView lse;                 // float [N], of LinearCrossEntropy
  TensorView grad_loss;           // float: [N] without a reduction, else []
  TensorView grad_lse;            // float [N]
  CrossEntropyOptions options;
};

// Sums are in float, over the classes and over the rows in blocks of a fixed size, and rounded
// once. The bf16 variants round grad to bfloat16 before the products, as PyTorch does; all others
// keep it in float. A row of grad_hidden depends neither on the number of threads nor on the rows
// around it, grad_weight not on the number of threads.
//
// Workspace, freed at the end, in bytes, with R = min(N, 1024) and C = min(V, 512):
//   4 R (C + 48)                    the block of logits, then of grad
//   C (e R + 192)                   its transpose; e: 2 in the bf16 variants, else 4
//   4 C D                           sums of grad_weight; where it is not float and N > R
//   4 N D                           sums of grad_hidden; where it is not float
//   4 R D + 4 C D                   copies in float of half or bfloat16 inputs; not in bf16
//   variants 64 N                            plans of the rows
// and the panels of the products. Outputs must not overlap inputs or each other. Fails as
// CrossEntropy does.
Status LinearCrossEntropyBackward(const LaunchContext& ctx,
                                  const LinearCrossEntropyBackwardArgs& args);

std::vector<VariantInfo> LinearCrossEntropyBackwardVariants();

}  // namespace kpt::cpu

#endif  // KPT_KERNELS_GEMM_LINEAR_CROSS_ENTROPY_BACKWARD_H_

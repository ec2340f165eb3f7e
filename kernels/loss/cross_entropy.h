// cross_entropy: the loss of a classifier over rows of logits x [N, V], and its logsumexp.
//
//   lse  = log(sum_j exp(x[j]))
//   loss = lse - (1 - e) x[target] - e / V sum_j x[j] + z lse^2     e: label_smoothing, z: z_loss
//
// summed, averaged over the rows that are not ignored, or as it is. The first terms are those of
// torch.nn.functional.cross_entropy; z_loss is the auxiliary term of PaLM (Chowdhery et al. 2022,
// section 5) that keeps the logarithm of the normalizer near 0.
#ifndef KPT_KERNELS_LOSS_CROSS_ENTROPY_H_
#define KPT_KERNELS_LOSS_CROSS_ENTROPY_H_

#include <vector>

#include "kernels/base/cross_entropy_rows.h"
#include "kernels/base/launch_context.h"
#include "kernels/base/status.h"
#include "kernels/base/tensor_view.h"
#include "kernels/base/variant.h"

namespace kpt::cpu {

struct CrossEntropyArgs {
  const char* op = "cross_entropy";  // for messages
  MutableTensorView loss;            // float: [N] without a reduction, else []
  MutableTensorView lse;             // optional: float [N]
  TensorView logits;                 // [N, V] float, half or bfloat16, rows dense
  TensorView target;                 // [N] int64, each in [0, V) or options.ignore_index
  CrossEntropyOptions options;
};

// Reads the logits once, in float; sums over rows are in double, in the order of the rows. A row's
// loss and lse do not depend on other rows or on the threads. An ignored row is not read: its loss
// and lse are 0. The mean over no rows is NaN, as in PyTorch. A row with +inf or NaN, or of nothing
// but -inf, has loss NaN. Outputs must not overlap inputs.
//
// Fails with kInvalidArgument or kTypeError before anything is written, or with kResourceExhausted
// when there is no scratch memory (32 bytes a row).
Status CrossEntropy(const LaunchContext& ctx, const CrossEntropyArgs& args);

std::vector<VariantInfo> CrossEntropyVariants();

}  // namespace kpt::cpu

#endif  // KPT_KERNELS_LOSS_CROSS_ENTROPY_H_

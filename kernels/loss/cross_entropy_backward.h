// cross_entropy_backward: the gradient of the logits, from those of the loss and of lse.
//
//   g          = grad_loss, for the mean divided by the number of rows that are not ignored
//   grad x[j]  = (g (1 + 2 z lse) + grad_lse) exp(x[j] - lse) - g e / V - [j == target] g (1 - e)
#ifndef KPT_KERNELS_LOSS_CROSS_ENTROPY_BACKWARD_H_
#define KPT_KERNELS_LOSS_CROSS_ENTROPY_BACKWARD_H_

#include <vector>

#include "kernels/base/cross_entropy_rows.h"
#include "kernels/base/launch_context.h"
#include "kernels/base/status.h"
#include "kernels/base/tensor_view.h"
#include "kernels/base/variant.h"

namespace kpt::cpu {

struct CrossEntropyBackwardArgs {
  MutableTensorView grad_logits;  // [N, V], dtype of logits, rows dense
  TensorView logits;              // as in CrossEntropyArgs
  TensorView target;              // as in CrossEntropyArgs
  TensorView lse;                 // float [N], of CrossEntropy
  TensorView grad_loss;           // float: [N] without a reduction, else []
  TensorView grad_lse;            // float [N]
  CrossEntropyOptions options;
};

// One pass over the logits, computed in float and rounded once. grad_logits may be exactly logits.
// An ignored row's gradient is 0, whatever its logits. Fails as CrossEntropy does.
Status CrossEntropyBackward(const LaunchContext& ctx, const CrossEntropyBackwardArgs& args);

std::vector<VariantInfo> CrossEntropyBackwardVariants();

}  // namespace kpt::cpu

#endif  // KPT_KERNELS_LOSS_CROSS_ENTROPY_BACKWARD_H_

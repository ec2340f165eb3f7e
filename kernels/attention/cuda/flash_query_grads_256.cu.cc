// grad_q of attention_backward for heads of up to 256 elements.
#include "kernels/attention/cuda/flash_query_grads_impl.h"

namespace kpt::KPT_BACKEND {

Status FlashQueryGrads256(const LaunchContext& ctx, const FlashBackwardProblem& p) {
  return StartQueryGrads<256, 256>(ctx, p);
}

}  // namespace kpt::KPT_BACKEND

// grad_q of attention_backward for heads of up to 64 elements.
#include "kernels/attention/cuda/flash_query_grads_impl.h"

namespace kpt::KPT_BACKEND {

Status FlashQueryGrads64(const LaunchContext& ctx, const FlashBackwardProblem& p) {
  return StartQueryGrads<64, 64>(ctx, p);
}

}  // namespace kpt::KPT_BACKEND

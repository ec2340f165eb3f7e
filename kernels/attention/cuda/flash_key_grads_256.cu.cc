// grad_k and grad_v of attention_backward for heads of up to 256 elements.
#include "kernels/attention/cuda/flash_key_grads_impl.h"

namespace kpt::KPT_BACKEND {

Status FlashKeyGrads256(const LaunchContext& ctx, const FlashBackwardProblem& p) {
  return StartKeyGrads<256, 256>(ctx, p);
}

}  // namespace kpt::KPT_BACKEND

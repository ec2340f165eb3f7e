// grad_k and grad_v of attention_backward for heads of up to 192 elements (values: 128).
#include "kernels/attention/cuda/flash_key_grads_impl.h"

namespace kpt::KPT_BACKEND {

Status FlashKeyGrads192(const LaunchContext& ctx, const FlashBackwardProblem& p) {
  return StartKeyGrads<192, 128>(ctx, p);
}

}  // namespace kpt::KPT_BACKEND

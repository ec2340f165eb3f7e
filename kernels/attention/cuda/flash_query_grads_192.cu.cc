// grad_q of attention_backward for heads of up to 192 elements (values: 128).
#include "kernels/attention/cuda/flash_query_grads_impl.h"

namespace kpt::KPT_BACKEND {

Status FlashQueryGrads192(const LaunchContext& ctx, const FlashBackwardProblem& p) {
  return StartQueryGrads<192, 128>(ctx, p);
}

}  // namespace kpt::KPT_BACKEND

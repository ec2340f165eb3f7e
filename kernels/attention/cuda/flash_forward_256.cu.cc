// attention_forward for heads of up to 256 elements.
#include "kernels/attention/cuda/flash_forward_impl.h"

namespace kpt::KPT_BACKEND {

Status FlashForward256(const LaunchContext& ctx, const FlashProblem& p) {
  return StartFlashForward<256, 256>(ctx, p);
}

}  // namespace kpt::KPT_BACKEND

// attention_forward for heads of up to 64 elements.
#include "kernels/attention/cuda/flash_forward_impl.h"

namespace kpt::KPT_BACKEND {

Status FlashForward64(const LaunchContext& ctx, const FlashProblem& p) {
  return StartFlashForward<64, 64>(ctx, p);
}

}  // namespace kpt::KPT_BACKEND

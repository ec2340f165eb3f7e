// attention_forward for heads of up to 128 elements.
#include "kernels/attention/cuda/flash_forward_impl.h"

namespace kpt::KPT_BACKEND {

Status FlashForward128(const LaunchContext& ctx, const FlashProblem& p) {
  return StartFlashForward<128, 128>(ctx, p);
}

}  // namespace kpt::KPT_BACKEND

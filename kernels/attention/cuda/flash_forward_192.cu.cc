// attention_forward for heads of up to 192 elements (values: 128).
#include "kernels/attention/cuda/flash_forward_impl.h"

namespace kpt::KPT_BACKEND {

Status FlashForward192(const LaunchContext& ctx, const FlashProblem& p) {
  return StartFlashForward<192, 128>(ctx, p);
}

}  // namespace kpt::KPT_BACKEND

// Chooses among the kernels of attention over whole sequences.
#ifndef KPT_KERNELS_ATTENTION_FLASH_VARIANTS_H_
#define KPT_KERNELS_ATTENTION_FLASH_VARIANTS_H_

#include <vector>

#include "kernels/attention/flash_problem.h"
#include "kernels/base/backend.h"
#include "kernels/base/launch_context.h"
#include "kernels/base/status.h"
#include "kernels/base/variant.h"

namespace kpt::KPT_BACKEND {

// Problems of one dtype and one number of columns: a batch of heads of equal lengths is one
// problem, packed sequences are one each. There is at least one.

Status RunForwardVariant(const char* op, const LaunchContext& ctx,
                         const std::vector<FlashProblem>& problems);
std::vector<VariantInfo> ForwardVariants();

Status RunBackwardVariant(const char* op, const LaunchContext& ctx,
                          const std::vector<FlashBackwardProblem>& problems);
std::vector<VariantInfo> BackwardVariants();

}  // namespace kpt::KPT_BACKEND

#endif  // KPT_KERNELS_ATTENTION_FLASH_VARIANTS_H_

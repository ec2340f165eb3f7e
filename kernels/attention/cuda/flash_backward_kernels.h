// The kernels of attention_backward, as its variants start them, and what they pass to each other.
#ifndef KPT_KERNELS_ATTENTION_CUDA_FLASH_BACKWARD_KERNELS_H_
#define KPT_KERNELS_ATTENTION_CUDA_FLASH_BACKWARD_KERNELS_H_

#include <cstdint>

#include "kernels/attention/flash_problem.h"
#include "kernels/base/backend.h"
#include "kernels/base/launch_context.h"
#include "kernels/base/status.h"

namespace kpt::KPT_BACKEND {

// The workspace: of every row, two floats. A row is query r / group of head r % group of those that
// share a key head; arrays are [batch, key head, row].
//   lse    log2 of the sum of the row's powers of 2; 0 where no key is seen
//   delta  sum of grad_out * out over the row, less grad_lse
inline int64_t FlashBackwardRows(const FlashProblem& p) { return p.batch * p.heads_q * p.seqlen_q; }
inline int64_t FlashBackwardWorkspaceBytes(const FlashProblem& p) {
  return 8 * FlashBackwardRows(p);
}

// Keys stay, rows pass by: a block has 16 keys a warp and takes kRows rows at a time.
template <int kDim, int kDimV>
struct KeyGradTiles {
  static constexpr int kWarps = kDim <= 128 ? 8 : 4;
  static constexpr int kRows = kDim <= 64 ? 64 : 32;
  // The sums of both gradients do not fit in registers: one after the other.
  static constexpr bool kApart = kDim > 128;
  static constexpr int kSharedBytes = 2 * (16 * kWarps + 2 * kRows) * (kDim + kDimV);
};

// Rows stay, keys pass by: a block has 16 rows a warp and takes kKeys keys at a time.
template <int kDim, int kDimV>
struct QueryGradTiles {
  static constexpr int kWarps = kDim <= 128 ? 8 : 4;
  static constexpr int kKeys = kDim <= 64 ? 64 : kDim <= 192 ? 32 : 16;
  static constexpr int kSharedBytes = 2 * (16 * kWarps + 2 * kKeys) * (kDim + kDimV);
};

// Makes the workspace.
Status FlashBackwardRowSums(const LaunchContext& ctx, const FlashBackwardProblem& p);

// With the workspace made: grad_k and grad_v, and grad_q, for rows of up to 64, 128, 192 (v: 128)
// or 256 elements.
Status FlashKeyGrads64(const LaunchContext& ctx, const FlashBackwardProblem& p);
Status FlashKeyGrads128(const LaunchContext& ctx, const FlashBackwardProblem& p);
Status FlashKeyGrads192(const LaunchContext& ctx, const FlashBackwardProblem& p);
Status FlashKeyGrads256(const LaunchContext& ctx, const FlashBackwardProblem& p);
Status FlashQueryGrads64(const LaunchContext& ctx, const FlashBackwardProblem& p);
Status FlashQueryGrads128(const LaunchContext& ctx, const FlashBackwardProblem& p);
Status FlashQueryGrads192(const LaunchContext& ctx, const FlashBackwardProblem& p);
Status FlashQueryGrads256(const LaunchContext& ctx, const FlashBackwardProblem& p);

}  // namespace kpt::KPT_BACKEND

#endif  // KPT_KERNELS_ATTENTION_CUDA_FLASH_BACKWARD_KERNELS_H_

// The kernels of attention_forward, as its variants start them, and how work is cut for them.
#ifndef KPT_KERNELS_ATTENTION_CUDA_FLASH_FORWARD_KERNELS_H_
#define KPT_KERNELS_ATTENTION_CUDA_FLASH_FORWARD_KERNELS_H_

#include <cstdint>

#include "kernels/attention/flash_problem.h"
#include "kernels/base/backend.h"
#include "kernels/base/launch_context.h"
#include "kernels/base/status.h"

namespace kpt::KPT_BACKEND {

// The tiles of a kernel for rows of q and k of kDim elements and of v of kDimV: 16 rows a warp,
// kKeys keys at a time in two buffers that take turns.
template <int kDim, int kDimV>
struct FlashForwardTiles {
  static constexpr int kKeys = kDim + kDimV <= 256 ? 64 : 32;
  static constexpr int kMaxWarps = kDim <= 192 ? 8 : 4;  // what a row's registers and tiles allow
  static constexpr int SharedBytes(int warps) {
    return 2 * (16 * warps * kDim + 2 * kKeys * (kDim + kDimV));
  }
};

// Rows of the group of query heads that share a key head: row r is query r / group of head
// r % group, so that a tile's rows lie close together among the keys.
struct FlashForwardWork {
  int warps = 0;        // of a block; each has 16 rows
  int64_t tiles = 0;    // of 16 * warps rows, of a key head
  int64_t heads = 0;    // key heads of all entries
  int64_t section = 0;  // key heads whose tiles run at the same time: their keys fit in the cache
  KPT_HOST_DEVICE int64_t total() const { return tiles * heads; }
};

// Fewer warps a block where there would be fewer blocks than multiprocessors.
inline FlashForwardWork PlanFlashForward(const GpuDevice& device, const FlashProblem& p,
                                         int max_warps) {
  FlashForwardWork work;
  const int64_t rows = p.seqlen_q * (p.heads_q / p.heads_kv);
  work.heads = p.batch * p.heads_kv;
  work.warps = max_warps;
  const auto tiles = [&](int warps) { return (rows + 16 * warps - 1) / (16 * warps); };
  while (work.warps > 1 && (tiles(work.warps) * work.heads < 2 * device.num_sms) &&
         tiles(work.warps / 2) > tiles(work.warps)) {
    work.warps /= 2;
  }
  work.tiles = tiles(work.warps);
  const int64_t bytes = p.seqlen_k * (p.dim_qk + p.dim_v) * ItemSize(p.dtype);
  work.section = bytes > 0 ? device.l2_bytes / 2 / bytes : work.heads;
  if (work.section < 1) work.section = 1;
  if (work.section > work.heads) work.section = work.heads;
  return work;
}

// Rows of up to 64, 128, 192 (v: 128) or 256 elements.
Status FlashForward64(const LaunchContext& ctx, const FlashProblem& p);
Status FlashForward128(const LaunchContext& ctx, const FlashProblem& p);
Status FlashForward192(const LaunchContext& ctx, const FlashProblem& p);
Status FlashForward256(const LaunchContext& ctx, const FlashProblem& p);

}  // namespace kpt::KPT_BACKEND

#endif  // KPT_KERNELS_ATTENTION_CUDA_FLASH_FORWARD_KERNELS_H_

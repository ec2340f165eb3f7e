// The kernels of the four norms, as their variants start them.
#ifndef KPT_KERNELS_NORM_GPU_NORM_KERNELS_H_
#define KPT_KERNELS_NORM_GPU_NORM_KERNELS_H_

#include "kernels/base/backend.h"
#include "kernels/base/gpu/row_tiling.h"
#include "kernels/base/launch_context.h"
#include "kernels/base/status.h"
#include "kernels/norm/norm_job.h"

namespace kpt::KPT_BACKEND {

// 16-byte pieces that a thread holds, and the threads a row may have.
inline constexpr int kNormHeldVectors = 4;
inline constexpr int kNormMaxThreads = 1024;
// What a thread takes at a time where rows are not held.
inline constexpr int kNormLoopVectors = 4;
inline constexpr int kNormLoopElements = 16;

inline gpu::RowTiling TileNorm(const LaunchContext& ctx, const NormJob& job, int width,
                               int units_per_thread) {
  return gpu::TileRows(job.plan.rows, (job.cols + width - 1) / width, units_per_thread,
                       ctx.device->warp_size, /*block_threads=*/256, kNormMaxThreads);
}

// Rows of 16-byte pieces, each held in the registers of its threads: one read of memory.
Status NormHeld(const LaunchContext& ctx, const NormJob& job);
// Such rows of any length: read a second time, from the caches as far as they reach.
Status NormLong(const LaunchContext& ctx, const NormJob& job);
// Rows of any length and alignment, element by element.
Status NormScalar(const LaunchContext& ctx, const NormJob& job);

}  // namespace kpt::KPT_BACKEND

#endif  // KPT_KERNELS_NORM_GPU_NORM_KERNELS_H_

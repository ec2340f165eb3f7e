// The kernels of the norms' gradients, as their variants start them, and what memory they need.
#ifndef KPT_KERNELS_NORM_GPU_NORM_BACKWARD_KERNELS_H_
#define KPT_KERNELS_NORM_GPU_NORM_BACKWARD_KERNELS_H_

#include "kernels/base/backend.h"
#include "kernels/base/gpu/row_tiling.h"
#include "kernels/base/launch_context.h"
#include "kernels/base/status.h"
#include "kernels/norm/norm_backward_job.h"

namespace kpt::KPT_BACKEND {

// Registers for x, grad_y, the next row's and the sums of a thread leave room for so many threads.
inline constexpr int kNormBackwardMaxThreads = 512;
// 16-byte pieces of a row that a thread holds. While one of few is worked on, the next row comes
// in; layer norm has twice the sums of RMS norm to keep.
inline constexpr int kNormBackwardFew = 2;
constexpr int NormBackwardMany(bool subtract_mean) { return subtract_mean ? 3 : 4; }
// Without held rows: elements, and columns and rows of a block of the kernel for the sums.
inline constexpr int kNormBackwardLoopElements = 16;
inline constexpr int kNormSumsColumns = 32;
inline constexpr int kNormSumsSlices = 8;

inline bool NormBackwardFits(const NormBackwardJob& job, int vectors) {
  return job.cols * ItemSize(job.dtype) <= int64_t{16} * vectors * kNormBackwardMaxThreads;
}
inline int NormBackwardVectors(const NormBackwardJob& job) {
  return NormBackwardFits(job, kNormBackwardFew) ? kNormBackwardFew
                                                 : NormBackwardMany(job.subtract_mean);
}

// Blocks stay and take rows in turn: as many as fill the device, each with sums of its own.
inline gpu::RowTiling TileNormBackwardHeld(const LaunchContext& ctx, const NormBackwardJob& job) {
  const int width = static_cast<int>(16 / ItemSize(job.dtype));
  gpu::RowTiling tiling =
      gpu::TileRows(job.plan.rows, job.cols / width, NormBackwardVectors(job),
                    ctx.device->warp_size, /*block_threads=*/256, kNormBackwardMaxThreads);
  const int64_t most =
      int64_t{ctx.device->num_sms} * (kNormBackwardMaxThreads / tiling.block_threads);
  if (tiling.blocks > most) tiling.blocks = most;
  return tiling;
}

inline gpu::RowTiling TileNormBackwardScalar(const LaunchContext& ctx, const NormBackwardJob& job) {
  return gpu::TileRows(job.plan.rows, job.cols, kNormBackwardLoopElements, ctx.device->warp_size,
                       /*block_threads=*/256, /*max_threads=*/1024);
}

// Chunks of rows whose sums are taken apart where rows are not held.
inline int64_t NormSumsChunks(const LaunchContext& ctx, const NormBackwardJob& job) {
  const int64_t column_blocks = (job.cols + kNormSumsColumns - 1) / kNormSumsColumns;
  const int64_t wanted = (int64_t{8} * ctx.device->num_sms + column_blocks - 1) / column_blocks;
  const int64_t most = (job.plan.rows + kNormSumsSlices - 1) / kNormSumsSlices;
  return wanted < most ? wanted : most;
}

// The workspace: sums per block or chunk for the weight and then for the bias, float
// [2, parts, cols]; where rows are not held, the statistics of each row, float [rows, 3], after it.
inline int64_t NormBackwardHeldBytes(const LaunchContext& ctx, const NormBackwardJob& job) {
  return job.has_sums() ? 2 * TileNormBackwardHeld(ctx, job).blocks * job.cols * 4 : 0;
}
inline int64_t NormBackwardScalarBytes(const LaunchContext& ctx, const NormBackwardJob& job) {
  return job.has_sums() ? (2 * NormSumsChunks(ctx, job) * job.cols + 3 * job.plan.rows) * 4 : 0;
}

// Rows of 16-byte pieces, held in registers: x and grad_y are read once.
Status NormBackwardHeld(const LaunchContext& ctx, const NormBackwardJob& job);
// Any rows, element by element: read twice for grad_x, and once more for the sums.
Status NormBackwardScalar(const LaunchContext& ctx, const NormBackwardJob& job);
// No rows: the sums are zero.
Status NormBackwardNoRows(const LaunchContext& ctx, const NormBackwardJob& job);

}  // namespace kpt::KPT_BACKEND

#endif  // KPT_KERNELS_NORM_GPU_NORM_BACKWARD_KERNELS_H_

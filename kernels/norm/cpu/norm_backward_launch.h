// What the norms' gradients share outside the loops: checks, scratch, threads, the variant table.
#ifndef KPT_KERNELS_NORM_CPU_NORM_BACKWARD_LAUNCH_H_
#define KPT_KERNELS_NORM_CPU_NORM_BACKWARD_LAUNCH_H_

#include <cstddef>
#include <string>

#include "kernels/base/parallel_for.h"
#include "kernels/base/row_checks.h"
#include "kernels/base/scratch.h"
#include "kernels/base/variant.h"
#include "kernels/norm/cpu/norm_backward_rows.h"
#include "kernels/norm/norm_backward_checks.h"

namespace kpt::cpu {

inline Status MakeChunks(const char* op, const NormBackwardTensors& t, float eps,
                         bool subtract_mean, NormBackwardWork* job) {
  KPT_RETURN_IF_ERROR(MakeNormBackwardJob(op, t, eps, subtract_mean, job));
  // In place the lines are in the cache already.
  job->stream = job->grad_x != job->x && job->grad_x != job->grad_y &&
                job->grad_x != job->grad_sum && t.x.size() * ItemSize(t.x.dtype) >= kStreamBytes;
  if (job->has_sums()) {
    // At most 64 chunks, whose sums then take little of the caches; of 32 rows at least, next to
    // which clearing and adding up the sums is little work.
    const int64_t rows = job->plan.rows;
    job->chunk_rows = rows > 64 * 32 ? (rows + 63) / 64 : 32;
  }
  job->chunks = (job->plan.rows + job->chunk_rows - 1) / job->chunk_rows;
  // No rows: the sums are zero.
  if (job->has_sums() && job->chunks == 0) job->chunks = 1;
  return Status();
}

using NormBackwardFn = void (*)(const NormBackwardWork& job, int64_t begin, int64_t end);

template <const float* (*kWeight)(const NormBackwardWork& job, float* buffer),
          NormBackwardFn kChunks, NormBackwardFn kParams>
Status RunNormBackward(const LaunchContext& ctx, const NormBackwardWork& checked) {
  NormBackwardWork job = checked;
  job.sums_stride = (job.cols + 15) / 16 * 16;
  const int64_t sums = job.has_sums() ? job.chunks * 2 * job.sums_kinds() : 0;
  float* scratch = ScratchAs<float>(0, static_cast<size_t>((1 + sums) * job.sums_stride));
  if (scratch == nullptr) return Status::ResourceExhausted("no memory for the sums of gradients");
  job.wide_weight = kWeight(job, scratch);
  job.sums = scratch + job.sums_stride;
  // A parallel region costs about as much as this many elements take.
  constexpr int64_t kGrain = 4096;
  ParallelFor(ctx.num_threads, job.chunks, kGrain / (job.cols * job.chunk_rows) + 1,
              [&](int64_t begin, int64_t end) { kChunks(job, begin, end); });
  if (!job.has_sums()) return Status();
  const int64_t pieces = (job.cols + kNormBackwardPiece - 1) / kNormBackwardPiece;
  ParallelFor(ctx.num_threads, pieces, 16 / job.chunks + 1,
              [&](int64_t begin, int64_t end) { kParams(job, begin, end); });
  return Status();
}

#define KPT_NORM_BACKWARD(isa) \
  RunNormBackward<isa::NormBackwardWeight, isa::NormBackwardChunks, isa::NormBackwardParams>
inline constexpr Variant<NormBackwardWork> kNormBackwardVariants[] = {
#if defined(KPT_HAVE_X86_VARIANTS)
    {"rows_avx512_bf16", Isa::kAvx512Bf16, nullptr, KPT_NORM_BACKWARD(avx512_bf16)},
    {"rows_avx512", Isa::kAvx512, nullptr, KPT_NORM_BACKWARD(avx512)},
    {"rows_avx2", Isa::kAvx2, nullptr, KPT_NORM_BACKWARD(avx2)},
#endif
    {"rows_baseline", Isa::kBaseline, nullptr, KPT_NORM_BACKWARD(baseline)},
};
#undef KPT_NORM_BACKWARD

inline Status RunNormBackward(const char* op, const LaunchContext& ctx,
                              const NormBackwardTensors& tensors, float eps, bool subtract_mean) {
  NormBackwardWork job;
  KPT_RETURN_IF_ERROR(MakeChunks(op, tensors, eps, subtract_mean, &job));
  if (job.cols == 0) return Status();
  return RunFirst(op, kNormBackwardVariants, ctx, job);
}

}  // namespace kpt::cpu

#endif  // KPT_KERNELS_NORM_CPU_NORM_BACKWARD_LAUNCH_H_

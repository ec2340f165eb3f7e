// What the four norms share outside the row loop: threads and the variant table.
#ifndef KPT_KERNELS_NORM_CPU_NORM_LAUNCH_H_
#define KPT_KERNELS_NORM_CPU_NORM_LAUNCH_H_

#include "kernels/base/parallel_for.h"
#include "kernels/base/variant.h"
#include "kernels/norm/cpu/norm_rows.h"
#include "kernels/norm/norm_checks.h"

namespace kpt::cpu {

template <NormRowsFn kRows>
Status RunNormRows(const LaunchContext& ctx, const NormJob& job) {
  // A parallel region costs about as much as this many elements take.
  constexpr int64_t kGrain = 8192;
  const int64_t rows_per_grain = kGrain / job.cols + 1;
  ParallelFor(ctx.num_threads, job.plan.rows, rows_per_grain,
              [&](int64_t begin, int64_t end) { kRows(job, begin, end); });
  return Status();
}

inline constexpr Variant<NormJob> kNormVariants[] = {
#if defined(KPT_HAVE_X86_VARIANTS)
    {"rows_avx512_bf16", Isa::kAvx512Bf16, nullptr, RunNormRows<avx512_bf16::NormRows>},
    {"rows_avx512", Isa::kAvx512, nullptr, RunNormRows<avx512::NormRows>},
    {"rows_avx2", Isa::kAvx2, nullptr, RunNormRows<avx2::NormRows>},
#endif
    {"rows_baseline", Isa::kBaseline, nullptr, RunNormRows<baseline::NormRows>},
};

inline Status RunNorm(const char* op, const LaunchContext& ctx, const NormTensors& tensors,
                      float eps, bool subtract_mean) {
  NormJob job;
  KPT_RETURN_IF_ERROR(MakeNormJob(op, tensors, eps, subtract_mean, &job));
  if (job.plan.rows == 0 || job.cols == 0) return Status();
  return RunFirst(op, kNormVariants, ctx, job);
}

}  // namespace kpt::cpu

#endif  // KPT_KERNELS_NORM_CPU_NORM_LAUNCH_H_

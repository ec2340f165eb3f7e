// What softmax and its gradient share outside their loops: threads and the variant table.
#ifndef KPT_KERNELS_ACTIVATION_CPU_SOFTMAX_LAUNCH_H_
#define KPT_KERNELS_ACTIVATION_CPU_SOFTMAX_LAUNCH_H_

#include "kernels/activation/cpu/softmax_rows.h"
#include "kernels/base/parallel_for.h"
#include "kernels/base/row_checks.h"
#include "kernels/base/variant.h"

namespace kpt::cpu {

template <class Job, void (*kRows)(const Job& job, int64_t begin, int64_t end)>
Status RunSoftmaxRows(const LaunchContext& ctx, const Job& job) {
  // A parallel region costs about as much as this many elements take.
  constexpr int64_t kGrain = 4096;
  ParallelFor(ctx.num_threads, job.plan.rows, kGrain / job.cols + 1,
              [&](int64_t begin, int64_t end) { kRows(job, begin, end); });
  return Status();
}

// The variant table of an operator whose loop over a Job is `rows` in every instruction set's
// namespace.
#if defined(KPT_HAVE_X86_VARIANTS)
#define KPT_SOFTMAX_VARIANTS(Job, rows)                                                        \
  {                                                                                            \
      {"rows_avx512_bf16", Isa::kAvx512Bf16, nullptr, RunSoftmaxRows<Job, avx512_bf16::rows>}, \
      {"rows_avx512", Isa::kAvx512, nullptr, RunSoftmaxRows<Job, avx512::rows>},               \
      {"rows_avx2", Isa::kAvx2, nullptr, RunSoftmaxRows<Job, avx2::rows>},                     \
      {"rows_baseline", Isa::kBaseline, nullptr, RunSoftmaxRows<Job, baseline::rows>},         \
  }
#else
#define KPT_SOFTMAX_VARIANTS(Job, rows)                                                \
  {                                                                                    \
      {"rows_baseline", Isa::kBaseline, nullptr, RunSoftmaxRows<Job, baseline::rows>}, \
  }
#endif

}  // namespace kpt::cpu

#endif  // KPT_KERNELS_ACTIVATION_CPU_SOFTMAX_LAUNCH_H_

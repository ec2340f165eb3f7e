// What act, act_backward and act_mul share outside their loops.
#ifndef KPT_KERNELS_ACTIVATION_CPU_ACT_LAUNCH_H_
#define KPT_KERNELS_ACTIVATION_CPU_ACT_LAUNCH_H_

#include <initializer_list>
#include <string>

#include "kernels/activation/cpu/act_rows.h"
#include "kernels/base/parallel_for.h"
#include "kernels/base/row_checks.h"
#include "kernels/base/variant.h"

namespace kpt::cpu {

inline Status CheckKind(const char* op, ActivationKind kind,
                        std::initializer_list<ActivationKind> allowed) {
  for (ActivationKind k : allowed) {
    if (k == kind) return Status();
  }
  return Status::InvalidArgument(Argument(op, "kind") +
                                 "is not an activation of this operator, got code " +
                                 std::to_string(static_cast<int>(kind)));
}

// Sets the loop's bounds once plan and cols are there.
inline void CutRows(ActJob* job) {
  job->pieces_per_row = (job->cols + ActJob::kPiece - 1) / ActJob::kPiece;
  job->stream = job->out != job->x && job->out != job->other &&
                job->plan.rows * job->cols * ItemSize(job->dtype) >= kStreamBytes;
}

template <ActRowsFn kRows>
Status RunActRows(const LaunchContext& ctx, const ActJob& job) {
  // A parallel region costs about as much as this many elements take.
  constexpr int64_t kGrain = 4096;
  const int64_t piece = job.cols < ActJob::kPiece ? job.cols : ActJob::kPiece;
  ParallelFor(ctx.num_threads, job.plan.rows * job.pieces_per_row, (kGrain + piece - 1) / piece,
              [&](int64_t begin, int64_t end) { kRows(job, begin, end); });
  return Status();
}

// The variant table of an operator whose loop is `rows` in every instruction set's namespace.
#if defined(KPT_HAVE_X86_VARIANTS)
#define KPT_ACT_VARIANTS(rows)                                                        \
  {                                                                                   \
      {"rows_avx512_bf16", Isa::kAvx512Bf16, nullptr, RunActRows<avx512_bf16::rows>}, \
      {"rows_avx512", Isa::kAvx512, nullptr, RunActRows<avx512::rows>},               \
      {"rows_avx2", Isa::kAvx2, nullptr, RunActRows<avx2::rows>},                     \
      {"rows_baseline", Isa::kBaseline, nullptr, RunActRows<baseline::rows>},         \
  }
#else
#define KPT_ACT_VARIANTS(rows)                                                \
  {                                                                           \
      {"rows_baseline", Isa::kBaseline, nullptr, RunActRows<baseline::rows>}, \
  }
#endif

}  // namespace kpt::cpu

#endif  // KPT_KERNELS_ACTIVATION_CPU_ACT_LAUNCH_H_

// What act, act_mul and their gradients share outside their loops.
#ifndef KPT_KERNELS_ACTIVATION_CPU_ACT_LAUNCH_H_
#define KPT_KERNELS_ACTIVATION_CPU_ACT_LAUNCH_H_

#include "kernels/activation/act_checks.h"
#include "kernels/activation/cpu/act_rows.h"
#include "kernels/base/parallel_for.h"
#include "kernels/base/variant.h"

namespace kpt::cpu {

inline ActPieces CutRows(const ActJob& job) {
  ActPieces pieces;
  static_cast<ActJob&>(pieces) = job;
  pieces.pieces_per_row = (job.cols + ActPieces::kPiece - 1) / ActPieces::kPiece;
  pieces.stream = job.out != job.x && job.out != job.other &&
                  job.plan.rows * job.cols * ItemSize(job.dtype) >= kStreamBytes;
  return pieces;
}

template <ActRowsFn kRows>
Status RunActRows(const LaunchContext& ctx, const ActPieces& job) {
  // A parallel region costs about as much as this many elements take.
  constexpr int64_t kGrain = 4096;
  const int64_t piece = job.cols < ActPieces::kPiece ? job.cols : ActPieces::kPiece;
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

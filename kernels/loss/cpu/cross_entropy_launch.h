// What cross_entropy and its backward share outside their loops.
#ifndef KPT_KERNELS_LOSS_CPU_CROSS_ENTROPY_LAUNCH_H_
#define KPT_KERNELS_LOSS_CPU_CROSS_ENTROPY_LAUNCH_H_

#include "kernels/base/parallel_for.h"
#include "kernels/base/row_checks.h"
#include "kernels/base/variant.h"
#include "kernels/loss/cpu/cross_entropy_loops.h"

namespace kpt::cpu {

// logits [N, V] with dense rows, the targets and the options.
inline Status CheckClassifier(const char* op, const TensorView& logits, const TensorView& target,
                              const CrossEntropyOptions& options) {
  KPT_RETURN_IF_ERROR(CheckRows(op, "logits", logits, 2));
  if (logits.rank != 2) {
    return Status::InvalidArgument(Argument(op, "logits") + "must have 2 dimensions [N V], got " +
                                   ShapeText(logits));
  }
  KPT_RETURN_IF_ERROR(CheckOptions(op, options));
  return CheckTargets(op, target, logits.dim(0), logits.dim(1), options);
}

template <CrossEntropyFn kLoop>
Status RunCrossEntropy(const LaunchContext& ctx, const CrossEntropyJob& job) {
  // A parallel region costs about as much as this many elements take.
  constexpr int64_t kGrain = 4096;
  ParallelFor(ctx.num_threads, job.rows, kGrain / (job.cols + 1) + 1,
              [&](int64_t begin, int64_t end) { kLoop(job, begin, end); });
  return Status();
}

// The variant table of an operator whose loop is `loop` in every instruction set's namespace.
#if defined(KPT_HAVE_X86_VARIANTS)
#define KPT_CROSS_ENTROPY_VARIANTS(loop)                                           \
  {                                                                                \
      {"rows_avx512", Isa::kAvx512, nullptr, RunCrossEntropy<avx512::loop>},       \
      {"rows_avx2", Isa::kAvx2, nullptr, RunCrossEntropy<avx2::loop>},             \
      {"rows_baseline", Isa::kBaseline, nullptr, RunCrossEntropy<baseline::loop>}, \
  }
#else
#define KPT_CROSS_ENTROPY_VARIANTS(loop)                                           \
  {                                                                                \
      {"rows_baseline", Isa::kBaseline, nullptr, RunCrossEntropy<baseline::loop>}, \
  }
#endif

}  // namespace kpt::cpu

#endif  // KPT_KERNELS_LOSS_CPU_CROSS_ENTROPY_LAUNCH_H_

#include "kernels/activation/softmax.h"

#include "kernels/activation/cpu/softmax_rows.h"
#include "kernels/activation/softmax_checks.h"
#include "kernels/base/parallel_for.h"

namespace kpt::cpu {
namespace {

constexpr const char* kOp = "softmax";

template <SoftmaxRowsFn kRows>
Status RunRows(const LaunchContext& ctx, const SoftmaxJob& job) {
  // A parallel region costs about as much as this many elements take.
  constexpr int64_t kGrain = 4096;
  ParallelFor(ctx.num_threads, job.plan.rows, kGrain / job.cols + 1,
              [&](int64_t begin, int64_t end) { kRows(job, begin, end); });
  return Status();
}

constexpr Variant<SoftmaxJob> kVariants[] = {
#if defined(KPT_HAVE_X86_VARIANTS)
    {"rows_avx512_bf16", Isa::kAvx512Bf16, nullptr, RunRows<avx512_bf16::SoftmaxRows>},
    {"rows_avx512", Isa::kAvx512, nullptr, RunRows<avx512::SoftmaxRows>},
    {"rows_avx2", Isa::kAvx2, nullptr, RunRows<avx2::SoftmaxRows>},
#endif
    {"rows_baseline", Isa::kBaseline, nullptr, RunRows<baseline::SoftmaxRows>},
};

}  // namespace

Status Softmax(const LaunchContext& ctx, const SoftmaxArgs& args) {
  SoftmaxJob job;
  KPT_RETURN_IF_ERROR(MakeSoftmaxJob(kOp, args, &job));
  if (job.cols == 0) return Status();
  return RunFirst(kOp, kVariants, ctx, job);
}

std::vector<VariantInfo> SoftmaxVariants() { return ListVariants(kVariants); }

}  // namespace kpt::cpu

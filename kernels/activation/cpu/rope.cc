#include "kernels/activation/rope.h"

#include "kernels/activation/cpu/rope_rows.h"
#include "kernels/activation/rope_checks.h"
#include "kernels/base/parallel_for.h"
#include "kernels/base/variant.h"

namespace kpt::cpu {
namespace {

template <RopeRowsFn kRows>
Status RunRows(const LaunchContext& ctx, const RopeJob& job) {
  // A parallel region costs about as much as this many elements take.
  constexpr int64_t kGrain = 8192;
  const int64_t elements = (job.sides[0].heads + job.sides[1].heads) * job.head_dim;
  ParallelFor(ctx.num_threads, job.batch * job.seqlen, kGrain / (elements + 1) + 1,
              [&](int64_t begin, int64_t end) { kRows(job, begin, end); });
  return Status();
}

constexpr Variant<RopeJob> kVariants[] = {
#if defined(KPT_HAVE_X86_VARIANTS)
    {"rows_avx512_bf16", Isa::kAvx512Bf16, nullptr, RunRows<avx512_bf16::RopeRows>},
    {"rows_avx512", Isa::kAvx512, nullptr, RunRows<avx512::RopeRows>},
    {"rows_avx2", Isa::kAvx2, nullptr, RunRows<avx2::RopeRows>},
#endif
    {"rows_baseline", Isa::kBaseline, nullptr, RunRows<baseline::RopeRows>},
};

}  // namespace

Status Rope(const LaunchContext& ctx, const RopeArgs& args) {
  RopeJob job;
  KPT_RETURN_IF_ERROR(MakeRopeJob(args, &job));
  if (job.batch * job.seqlen == 0) return Status();
  return RunFirst(kRopeOp, kVariants, ctx, job);
}

std::vector<VariantInfo> RopeVariants() { return ListVariants(kVariants); }

}  // namespace kpt::cpu

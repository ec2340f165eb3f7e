// rope on a GPU: checks and the choice of a kernel.
#include "kernels/activation/rope.h"

#include "kernels/activation/gpu/rope_kernels.h"
#include "kernels/activation/rope_checks.h"
#include "kernels/base/gpu/row_tiling.h"
#include "kernels/base/gpu_variant.h"

namespace kpt::KPT_BACKEND {
namespace {

bool IsAligned(const LaunchContext&, const RopeJob& job) {
  const int64_t width = 16 / ItemSize(job.dtype);
  if (job.pairs % width != 0 || job.head_dim % width != 0) return false;
  for (const RopeJob::Side& side : job.sides) {
    if (side.heads == 0) continue;
    if (!gpu::Aligned16(side.in) || !gpu::Aligned16(side.out)) return false;
    for (int d = 0; d < 3; ++d) {
      if (side.in_strides[d] % width != 0 || side.out_strides[d] % width != 0) return false;
    }
  }
  const int64_t table_width = 16 / ItemSize(job.table_dtype);
  for (const RopeJob::Table& table : {job.cos, job.sin}) {
    if (!gpu::Aligned16(table.data) || table.batch_stride % table_width != 0 ||
        table.row_stride % table_width != 0) {
      return false;
    }
  }
  return true;
}

constexpr GpuVariant<RopeJob> kVariants[] = {
    {"vectors", GpuTarget::kPortable, IsAligned, RopeVectors},
    {"scalars", GpuTarget::kPortable, nullptr, RopeScalars},
};

}  // namespace

Status Rope(const LaunchContext& ctx, const RopeArgs& args) {
  RopeJob job;
  KPT_RETURN_IF_ERROR(MakeRopeJob(args, &job));
  if (job.batch * job.seqlen == 0) return Status();
  return RunFirst("rope", kVariants, ctx, job);
}

std::vector<VariantInfo> RopeVariants() { return ListVariants(kVariants); }

}  // namespace kpt::KPT_BACKEND

// attention_forward and attention_backward on NVIDIA GPUs: workspace and variant tables.
#include "kernels/attention/flash_variants.h"

#include <string>

#include "kernels/attention/cuda/flash_backward_kernels.h"
#include "kernels/attention/cuda/flash_forward_kernels.h"
#include "kernels/attention/cuda/flash_workspace.h"
#include "kernels/base/gpu_variant.h"

namespace kpt::KPT_BACKEND {
namespace {

// Queries, keys and rows are counted in 32 bits. float32 runs the reference: tensor cores would
// round it to 10 bits.
bool Fits(const FlashProblem& p) {
  constexpr int64_t kMost = (int64_t{1} << 31) - 4096;
  return p.dtype != DType::kFloat32 && p.dim_qk >= 1 && p.dim_qk <= kFlashMaxDim && p.dim_v >= 1 &&
         p.dim_v <= kFlashMaxDim && p.seqlen_k < kMost &&
         (p.heads_kv == 0 || p.seqlen_q * (p.heads_q / p.heads_kv) < kMost);
}

bool FitsForward(const LaunchContext&, const FlashProblem& p) { return Fits(p); }
bool FitsBackward(const LaunchContext&, const FlashBackwardProblem& p) { return Fits(p); }

enum class HeadSize { k64, k128, k192, k256 };

HeadSize SizeOf(const FlashProblem& p) {
  const int64_t dim = p.dim_qk > p.dim_v ? p.dim_qk : p.dim_v;
  if (dim <= 64) return HeadSize::k64;
  if (dim <= 128) return HeadSize::k128;
  return p.dim_qk <= 192 && p.dim_v <= 128 ? HeadSize::k192 : HeadSize::k256;
}

Status Forward(const LaunchContext& ctx, const FlashProblem& p) {
  switch (SizeOf(p)) {
    case HeadSize::k64:
      return FlashForward64(ctx, p);
    case HeadSize::k128:
      return FlashForward128(ctx, p);
    case HeadSize::k192:
      return FlashForward192(ctx, p);
    default:
      return FlashForward256(ctx, p);
  }
}

Status Backward(const LaunchContext& ctx, const FlashBackwardProblem& p) {
  if (FlashBackwardRows(p) > 0) KPT_RETURN_IF_ERROR(FlashBackwardRowSums(ctx, p));
  using Kernel = Status (*)(const LaunchContext&, const FlashBackwardProblem&);
  Kernel keys = FlashKeyGrads256, queries = FlashQueryGrads256;
  switch (SizeOf(p)) {
    case HeadSize::k64:
      keys = FlashKeyGrads64, queries = FlashQueryGrads64;
      break;
    case HeadSize::k128:
      keys = FlashKeyGrads128, queries = FlashQueryGrads128;
      break;
    case HeadSize::k192:
      keys = FlashKeyGrads192, queries = FlashQueryGrads192;
      break;
    case HeadSize::k256:
      break;
  }
  if (p.seqlen_k > 0) KPT_RETURN_IF_ERROR(keys(ctx, p));
  return p.seqlen_q > 0 ? queries(ctx, p) : Status();
}

constexpr GpuVariant<FlashProblem> kForward[] = {
    {"mma", GpuTarget::kPortable, FitsForward, Forward},
};
constexpr GpuVariant<FlashBackwardProblem> kBackward[] = {
    {"mma", GpuTarget::kPortable, FitsBackward, Backward},
};

}  // namespace

// Packed sequences, several problems at once, come from lengths that only a CPU reads.
Status RunForwardVariant(const char* op, const LaunchContext& ctx,
                         const std::vector<FlashProblem>& problems) {
  for (const FlashProblem& p : problems) {
    if (p.batch * p.heads_q * p.seqlen_q == 0) continue;
    KPT_RETURN_IF_ERROR(RunFirst(op, kForward, ctx, p));
  }
  return Status();
}

Status RunBackwardVariant(const char* op, const LaunchContext& ctx,
                          const std::vector<FlashBackwardProblem>& problems) {
  for (const FlashBackwardProblem& p : problems) {
    if (p.batch * p.heads_kv == 0 || p.seqlen_q + p.seqlen_k == 0) continue;
    if (ctx.device != nullptr && Fits(p) && FlashBackwardWorkspaceBytes(p) > ctx.workspace_bytes) {
      return Status::InvalidArgument(std::string(op) + ": needs a workspace of " +
                                     std::to_string(FlashBackwardWorkspaceBytes(p)) +
                                     " bytes, got " + std::to_string(ctx.workspace_bytes));
    }
    KPT_RETURN_IF_ERROR(RunFirst(op, kBackward, ctx, p));
  }
  return Status();
}

int64_t AttentionBackwardWorkspaceBytes(const LaunchContext&, const AttentionBackwardArgs& args) {
  // Two floats a row, whatever kernel runs: refused arguments ask for little.
  return args.q.rank == 4 ? 8 * args.q.dim(0) * args.q.dim(1) * args.q.dim(2) : 0;
}

std::vector<VariantInfo> ForwardVariants() { return ListVariants(kForward); }
std::vector<VariantInfo> BackwardVariants() { return ListVariants(kBackward); }

}  // namespace kpt::KPT_BACKEND

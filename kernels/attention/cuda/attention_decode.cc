// attention_decode, attention_paged on NVIDIA GPUs: workspace and variant table.
#include <string>

#include "kernels/attention/cuda/decode_kernels.h"
#include "kernels/attention/cuda/decode_workspace.h"
#include "kernels/attention/decode_arguments.h"
#include "kernels/base/gpu_variant.h"

namespace kpt::KPT_BACKEND {
namespace {

// Keys are counted in 32 bits; float32 and queries that are to be turned run the reference.
bool FitsKernels(const LaunchContext&, const DecodeProblem& p) {
  return p.dtype != DType::kFloat32 && p.rotation.pairs == 0 && p.dim_qk >= 1 &&
         p.dim_qk <= kDecodeMaxDim && p.dim_v >= 1 && p.dim_v <= kDecodeMaxDim &&
         p.capacity < (int64_t{1} << 31) - 1024;
}

Status RunPieces(const LaunchContext& ctx, const DecodeProblem& p) {
  const int64_t dim = p.dim_qk > p.dim_v ? p.dim_qk : p.dim_v;
  KPT_RETURN_IF_ERROR(dim <= 64    ? DecodePieces64(ctx, p)
                      : dim <= 128 ? DecodePieces128(ctx, p)
                                   : DecodePieces256(ctx, p));
  return DecodeCombine(ctx, p);
}

constexpr GpuVariant<DecodeProblem> kVariants[] = {
    {"mma_pieces", GpuTarget::kPortable, FitsKernels, RunPieces},
};

Status Run(const char* op, const LaunchContext& ctx, const AttentionDecodeArgs& args) {
  KPT_RETURN_IF_ERROR(CheckDecode(op, args));
  const DecodeProblem p = ResolveDecode(args);
  if (args.out.size() == 0) return Status();
  if (ctx.device != nullptr && FitsKernels(ctx, p)) {
    const int64_t bytes = PlanDecode(*ctx.device, p).workspace_bytes();
    if (bytes > ctx.workspace_bytes) {
      return Status::InvalidArgument(std::string(op) + ": needs a workspace of " +
                                     std::to_string(bytes) + " bytes, got " +
                                     std::to_string(ctx.workspace_bytes));
    }
  }
  return RunFirst(op, kVariants, ctx, p);
}

}  // namespace

Status AttentionDecode(const LaunchContext& ctx, const AttentionDecodeArgs& args) {
  return Run("attention_decode", ctx, args);
}

Status AttentionPaged(const LaunchContext& ctx, const AttentionDecodeArgs& args) {
  KPT_RETURN_IF_ERROR(CheckPaged("attention_paged", args));
  return Run("attention_paged", ctx, args);
}

int64_t AttentionDecodeWorkspaceBytes(const LaunchContext& ctx, const AttentionDecodeArgs& args) {
  if (ctx.device == nullptr || args.out.size() == 0) return 0;
  if (args.block_table.present() && !CheckPaged("attention_paged", args).ok()) return 0;
  if (!CheckDecode("attention_decode", args).ok()) return 0;
  const DecodeProblem p = ResolveDecode(args);
  return FitsKernels(ctx, p) ? PlanDecode(*ctx.device, p).workspace_bytes() : 0;
}

std::vector<VariantInfo> AttentionDecodeVariants() { return ListVariants(kVariants); }

}  // namespace kpt::KPT_BACKEND

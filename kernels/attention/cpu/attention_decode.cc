// attention_decode, attention_paged on a CPU: lengths and pages, variant table.
#include "kernels/attention/attention_decode.h"

#include "kernels/attention/cpu/decode_driver.h"
#include "kernels/attention/cpu/decode_kernels.h"
#include "kernels/attention/decode_arguments.h"

namespace kpt::cpu {
namespace {

bool FitsKernels(const LaunchContext&, const DecodeProblem& p) {
  return p.dim_qk >= 1 && p.dim_qk <= kDecodeMaxDim && p.dim_v >= 1 && p.dim_v <= kDecodeMaxDim;
}

[[maybe_unused]] bool FitsPairs(const LaunchContext& ctx, const DecodeProblem& p) {
  return p.dtype == DType::kBFloat16 && FitsKernels(ctx, p);
}

template <DecodeKernel (*kKernel)()>
Status RunKernel(const LaunchContext& ctx, const DecodeProblem& p) {
  static const DecodeKernel kernel = kKernel();
  return RunDecode(ctx, kernel, p);
}

constexpr Variant<DecodeProblem> kVariants[] = {
#if defined(KPT_HAVE_X86_VARIANTS)
    {"avx512_bf16", Isa::kAvx512Bf16, FitsPairs, RunKernel<avx512_bf16::BFloat16DecodeKernel>},
    {"avx512", Isa::kAvx512, FitsKernels, RunKernel<avx512::FloatDecodeKernel>},
    {"avx2", Isa::kAvx2, FitsKernels, RunKernel<avx2::FloatDecodeKernel>},
#endif
    {"baseline", Isa::kBaseline, FitsKernels, RunKernel<baseline::FloatDecodeKernel>},
};

Status Run(const char* op, const LaunchContext& ctx, const AttentionDecodeArgs& args) {
  KPT_RETURN_IF_ERROR(CheckDecode(op, args));
  const DecodeProblem p = ResolveDecode(args);
  KPT_RETURN_IF_ERROR(CheckPlaces(op, p, p.batch, 0, p.capacity));
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

std::vector<VariantInfo> AttentionDecodeVariants() { return ListVariants(kVariants); }

}  // namespace kpt::cpu

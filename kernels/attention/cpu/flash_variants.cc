#include "kernels/attention/flash_variants.h"

#include "kernels/attention/cpu/flash_backward_driver.h"
#include "kernels/attention/cpu/flash_driver.h"
#include "kernels/attention/cpu/flash_kernels.h"

namespace kpt::cpu {
namespace {

using Forward = std::vector<FlashProblem>;
using Backward = std::vector<FlashBackwardProblem>;

template <class Problems>
bool Fits(const LaunchContext&, const Problems& problems) {
  const FlashProblem& p = problems.front();
  return p.dim_qk >= 1 && p.dim_qk <= kFlashMaxDim && p.dim_v >= 1 && p.dim_v <= kFlashMaxDim;
}

template <FlashKernel (*kKernel)()>
Status Run(const LaunchContext& ctx, const Forward& problems) {
  static const FlashKernel kernel = kKernel();
  return RunFlash(ctx, kernel, problems.data(), static_cast<int64_t>(problems.size()));
}

template <FlashBackwardKernel (*kKernel)()>
Status Run(const LaunchContext& ctx, const Backward& problems) {
  static const FlashBackwardKernel kernel = kKernel();
  return RunFlashBackward(ctx, kernel, problems.data(), static_cast<int64_t>(problems.size()));
}

#if defined(KPT_HAVE_X86_VARIANTS)
template <class Problems>
bool FitsBFloat16(const LaunchContext& ctx, const Problems& problems) {
  return problems.front().dtype == DType::kBFloat16 && Fits(ctx, problems);
}
#endif

constexpr Variant<Forward> kForward[] = {
#if defined(KPT_HAVE_X86_VARIANTS)
    {"amx", Isa::kAmx, FitsBFloat16, Run<amx::BFloat16FlashKernel>},
    {"avx512_bf16", Isa::kAvx512Bf16, FitsBFloat16, Run<avx512_bf16::BFloat16FlashKernel>},
    {"avx512", Isa::kAvx512, Fits, Run<avx512::FloatFlashKernel>},
    {"avx2", Isa::kAvx2, Fits, Run<avx2::FloatFlashKernel>},
#endif
    {"baseline", Isa::kBaseline, Fits, Run<baseline::FloatFlashKernel>},
};

constexpr Variant<Backward> kBackward[] = {
#if defined(KPT_HAVE_X86_VARIANTS)
    {"avx512_bf16", Isa::kAvx512Bf16, FitsBFloat16, Run<avx512_bf16::BFloat16FlashBackwardKernel>},
    {"avx512", Isa::kAvx512, Fits, Run<avx512::FloatFlashBackwardKernel>},
    {"avx2", Isa::kAvx2, Fits, Run<avx2::FloatFlashBackwardKernel>},
#endif
    {"baseline", Isa::kBaseline, Fits, Run<baseline::FloatFlashBackwardKernel>},
};

}  // namespace

Status RunForwardVariant(const char* op, const LaunchContext& ctx, const Forward& problems) {
  return RunFirst(op, kForward, ctx, problems);
}

std::vector<VariantInfo> ForwardVariants() { return ListVariants(kForward); }

Status RunBackwardVariant(const char* op, const LaunchContext& ctx, const Backward& problems) {
  return RunFirst(op, kBackward, ctx, problems);
}

std::vector<VariantInfo> BackwardVariants() { return ListVariants(kBackward); }

}  // namespace kpt::cpu

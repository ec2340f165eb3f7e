#include "kernels/gemm/cpu/logit_block.h"

#include <string>

#include "kernels/base/row_checks.h"

namespace kpt::cpu {
namespace {

struct Choice {
  DType dtype;
  LogitKernels* kernels;
};

#define KPT_LOGIT_KERNELS(bf16, gemm, ns, gradient) \
  [](const LaunchContext&, const Choice& choice) {  \
    *choice.kernels = {bf16,                        \
                       gemm,                        \
                       ns::UpdateLogitRows,         \
                       ns::gradient,                \
                       ns::ConvertFloatRows,        \
                       ns::RoundFloatRows,          \
                       ns::Transpose};              \
    return Status();                                \
  }

#if defined(KPT_HAVE_X86_VARIANTS)
bool IsBf16(const LaunchContext&, const Choice& c) { return c.dtype == DType::kBFloat16; }

bool PairsBf16(const LaunchContext& ctx, const Choice& c) {
  return IsBf16(ctx, c) && (!FloatBeatsBf16Pairs() || ctx.force_variant != nullptr);
}
#endif

constexpr Variant<Choice> kVariants[] = {
#if defined(KPT_HAVE_X86_VARIANTS)
    {"amx_bf16", Isa::kAmx, IsBf16,
     KPT_LOGIT_KERNELS(true, amx::Bf16Gemm, avx512, GradientBf16Rows)},
    {"avx512_bf16", Isa::kAvx512Bf16, PairsBf16,
     KPT_LOGIT_KERNELS(true, avx512_bf16::Bf16Gemm, avx512, GradientBf16Rows)},
    {"avx512", Isa::kAvx512, nullptr,
     KPT_LOGIT_KERNELS(false, avx512::FloatGemm, avx512, GradientFloatRows)},
    {"avx2", Isa::kAvx2, nullptr,
     KPT_LOGIT_KERNELS(false, avx2::FloatGemm, avx2, GradientFloatRows)},
#endif
    {"baseline", Isa::kBaseline, nullptr,
     KPT_LOGIT_KERNELS(false, baseline::FloatGemm, baseline, GradientFloatRows)},
};
#undef KPT_LOGIT_KERNELS

bool Run(int num_threads, LinearKernel gemm, const PanelGemm& g) {
  return gemm(UsefulThreads(num_threads, g.m, g.k, g.columns()), g);
}

// left [m, k] times right, into float rows or rows of out's dtype.
PanelGemm Product(const RowMatrix& left, const RowMatrix& right) {
  PanelGemm g;
  g.m = left.rows;
  g.k = left.cols;
  g.x = left.data;
  g.x_dtype = left.dtype;
  g.ldx = left.ld;
  g.weight = right.data;
  g.ldw = right.ld;
  return g;
}

}  // namespace

Status ChooseLogitKernels(const char* op, const LaunchContext& ctx, DType dtype,
                          LogitKernels* kernels) {
  return RunFirst(op, kVariants, ctx, Choice{dtype, kernels});
}

std::vector<VariantInfo> LogitVariants() { return ListVariants(kVariants); }

Status CheckLinearClassifier(const char* op, const TensorView& hidden, const TensorView& weight,
                             const TensorView& target, const CrossEntropyOptions& options) {
  KPT_RETURN_IF_ERROR(CheckRows(op, "hidden", hidden, 2));
  KPT_RETURN_IF_ERROR(CheckRows(op, "weight", weight, 2));
  if (hidden.rank != 2) {
    return Status::InvalidArgument(Argument(op, "hidden") + "must have 2 dimensions [N D], got " +
                                   ShapeText(hidden));
  }
  if (weight.dtype != hidden.dtype) {
    return Status::TypeError(Argument(op, "weight") + "must have dtype " + Name(hidden.dtype) +
                             " like 'hidden', got " + Name(weight.dtype));
  }
  if (weight.rank != 2 || weight.dim(1) != hidden.dim(1)) {
    return Status::InvalidArgument(Argument(op, "weight") + "must have shape [V, " +
                                   std::to_string(hidden.dim(1)) + "], got " + ShapeText(weight));
  }
  KPT_RETURN_IF_ERROR(CheckOptions(op, options));
  return CheckTargets(op, target, hidden.dim(0), weight.dim(0), options);
}

bool MultiplyLogits(int num_threads, LinearKernel gemm, const RowMatrix& hidden,
                    const RowMatrix& weight, const LogitBlock& block) {
  PanelGemm g = Product(hidden, weight);
  g.epilogue.y = block.logits;
  g.epilogue.ldy = block.ld;
  g.epilogue.n = block.classes;
  return Run(num_threads, gemm, g);
}

bool MultiplyTransposed(int num_threads, LinearKernel gemm, const RowMatrix& left,
                        const RowMatrix& right, const RowMatrix& out, bool accumulate) {
  PanelGemm g = Product(left, right);
  g.weight_transposed = true;
  g.epilogue.y = const_cast<void*>(out.data);
  g.epilogue.y_dtype = out.dtype;
  g.epilogue.ldy = out.ld;
  g.epilogue.n = out.cols;
  g.epilogue.accumulate = accumulate;
  return Run(num_threads, gemm, g);
}

}  // namespace kpt::cpu

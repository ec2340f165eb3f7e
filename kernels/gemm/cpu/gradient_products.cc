#include "kernels/gemm/cpu/gradient_products.h"

#include <algorithm>

#include "kernels/base/parallel_for.h"
#include "kernels/base/scratch.h"

namespace kpt::cpu {
namespace {

constexpr int kTransposeSlot = 2;  // the kernels use slots 0 and 1

struct Choice {
  DType dtype;
  GradientKernels* kernels;
};

#define KPT_GRADIENT_KERNELS(gemm, ns)                                     \
  [](const LaunchContext&, const Choice& choice) {                         \
    *choice.kernels = {gemm, ns::Transpose, ns::ColumnSums, ns::EmitRows}; \
    return Status();                                                       \
  }

#if defined(KPT_HAVE_X86_VARIANTS)
bool IsBf16(const LaunchContext&, const Choice& c) { return c.dtype == DType::kBFloat16; }

bool PairsBf16(const LaunchContext& ctx, const Choice& c) {
  return IsBf16(ctx, c) && (!FloatBeatsBf16Pairs() || ctx.force_variant != nullptr);
}
#endif

constexpr Variant<Choice> kVariants[] = {
#if defined(KPT_HAVE_X86_VARIANTS)
    {"amx_bf16", Isa::kAmx, IsBf16, KPT_GRADIENT_KERNELS(amx::Bf16Gemm, avx512)},
    {"avx512_bf16", Isa::kAvx512Bf16, PairsBf16,
     KPT_GRADIENT_KERNELS(avx512_bf16::Bf16Gemm, avx512)},
    {"avx512", Isa::kAvx512, nullptr, KPT_GRADIENT_KERNELS(avx512::FloatGemm, avx512)},
    {"avx2", Isa::kAvx2, nullptr, KPT_GRADIENT_KERNELS(avx2::FloatGemm, avx2)},
#endif
    {"baseline", Isa::kBaseline, nullptr, KPT_GRADIENT_KERNELS(baseline::FloatGemm, baseline)},
};
#undef KPT_GRADIENT_KERNELS

// left right, where `right` is stored [k, n].
LinearProblem Product(LinearKernel kernel, const RowMatrix& left, const RowMatrix& right,
                      const RowMatrix& out) {
  LinearProblem p;
  p.kernel = kernel;
  p.g.m = left.rows;
  p.g.k = left.cols;
  p.g.x = left.data;
  p.g.x_dtype = left.dtype;
  p.g.ldx = left.ld;
  p.g.weight = right.data;
  p.g.ldw = right.ld;
  p.g.weight_transposed = true;
  p.g.epilogue.y = const_cast<void*>(out.data);
  p.g.epilogue.y_dtype = out.dtype;
  p.g.epilogue.ldy = out.ld;
  p.g.epilogue.n = out.cols;
  return p;
}

RowMatrix Cols(const RowMatrix& m, int64_t begin, int64_t end) {
  RowMatrix part = m;
  part.data = m.At(0, begin);
  part.cols = end - begin;
  return part;
}

}  // namespace

Status ChooseGradientKernels(const char* op, const LaunchContext& ctx, DType dtype,
                             GradientKernels* kernels) {
  return RunFirst(op, kVariants, ctx, Choice{dtype, kernels});
}

std::vector<VariantInfo> GradientVariants() { return ListVariants(kVariants); }

bool GradientOfInput(int num_threads, const GradientKernels& kernels, const RowMatrix& grad,
                     const GroupMatrices& weight, const std::vector<RowGroup>& groups,
                     const RowMatrix& out) {
  std::vector<LinearProblem> problems;
  for (size_t i = 0; i < groups.size(); ++i) {
    const RowGroup& g = groups[i];
    if (g.begin == g.end) continue;
    problems.push_back(
        Product(kernels.gemm, grad.Rows(g.begin, g.end), weight.Of(i), out.Rows(g.begin, g.end)));
  }
  return RunLinearProblems(num_threads, problems);
}

bool GradientOfWeight(int num_threads, const GradientKernels& kernels, const RowMatrix& grad,
                      const RowMatrix& x, const std::vector<RowGroup>& groups,
                      const GroupMatrices& out) {
  constexpr int64_t kPassBytes = 16 << 20;
  constexpr int64_t kLeastRows = 512;  // so that packing x again does not weigh
  const int64_t item = ItemSize(grad.dtype);
  // An odd number of cache lines: rows of a tile then lie in different sets of the cache.
  const int64_t line = 64 / item;
  const int64_t ld = (grad.rows / line / 2 * 2 + 3) * line;
  const int64_t pass =
      std::min(grad.cols, std::max(kLeastRows, kPassBytes / (ld * item) / kPanelCols * kPanelCols));
  if (pass == 0) return true;
  RowMatrix transposed;
  transposed.data = Scratch(kTransposeSlot, static_cast<size_t>(pass * ld * item));
  if (transposed.data == nullptr) return false;
  transposed.dtype = grad.dtype;
  transposed.ld = ld;
  for (int64_t n = 0; n < grad.cols; n += pass) {
    const RowMatrix columns = Cols(grad, n, std::min(n + pass, grad.cols));
    transposed.rows = columns.cols;
    transposed.cols = columns.rows;
    ParallelFor(num_threads, columns.rows, 65536 / columns.cols + 1,
                [&](int64_t begin, int64_t end) {
                  kernels.transpose(columns, begin, end, const_cast<void*>(transposed.data), ld);
                });
    std::vector<LinearProblem> problems;
    for (size_t i = 0; i < groups.size(); ++i) {
      const RowGroup& g = groups[i];
      problems.push_back(Product(kernels.gemm, Cols(transposed, g.begin, g.end),
                                 x.Rows(g.begin, g.end), out.Of(i).Rows(n, n + columns.cols)));
    }
    if (!RunLinearProblems(num_threads, problems)) return false;
  }
  return true;
}

void GradientOfBias(int num_threads, const GradientKernels& kernels, const RowMatrix& grad,
                    void* out) {
  constexpr int64_t kColumns = 64;
  ParallelFor(num_threads, (grad.cols + kColumns - 1) / kColumns, 262144 / (grad.rows * 64 + 1) + 1,
              [&](int64_t begin, int64_t end) {
                kernels.column_sums(grad, begin * kColumns, std::min(end * kColumns, grad.cols),
                                    out);
              });
}

}  // namespace kpt::cpu

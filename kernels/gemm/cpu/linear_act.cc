#include "kernels/gemm/linear_act.h"

#include <string>

#include "kernels/base/scratch.h"
#include "kernels/gemm/cpu/linear_checks.h"
#include "kernels/gemm/cpu/linear_problems.h"
#include "kernels/gemm/cpu/matrix_rows.h"
#include "kernels/gemm/cpu/panel_gemm.h"

namespace kpt::cpu {
namespace {

constexpr const char* kOp = "linear_act";  // whose variants these are
constexpr int kCopySlot = 3;               // the kernels use slots 0 and 1

// Up to here, dot products along the rows of the weight beat packing it (measured).
constexpr int64_t kMostRows = 32;
constexpr int64_t kMostBf16Rows = 16;

// A variant is a kernel: running one names it.
struct Choice {
  const PanelGemm* g;
  LinearKernel* kernel;
};

template <LinearKernel kKernel>
Status Take(const LaunchContext&, const Choice& choice) {
  *choice.kernel = kKernel;
  return Status();
}

bool FewRows(const LaunchContext&, const Choice& c) { return c.g->m <= kMostRows; }

#if defined(KPT_HAVE_X86_VARIANTS)
bool IsBf16(const LaunchContext&, const Choice& c) { return c.g->x_dtype == DType::kBFloat16; }

bool FewBf16Rows(const LaunchContext& ctx, const Choice& c) {
  return IsBf16(ctx, c) && c.g->m <= kMostBf16Rows;
}

bool ManyBf16Rows(const LaunchContext& ctx, const Choice& c) {
  return IsBf16(ctx, c) && (!FloatBeatsBf16Pairs() || ctx.force_variant != nullptr);
}
#endif

constexpr Variant<Choice> kVariants[] = {
#if defined(KPT_HAVE_X86_VARIANTS)
    {"amx_bf16", Isa::kAmx, IsBf16, Take<amx::Bf16Gemm>},
    {"avx512_bf16_rows", Isa::kAvx512Bf16, FewBf16Rows, Take<avx512_bf16::Bf16Rows>},
    {"avx512_bf16_panels", Isa::kAvx512Bf16, ManyBf16Rows, Take<avx512_bf16::Bf16Gemm>},
    {"avx512_rows", Isa::kAvx512, FewRows, Take<avx512::FloatRows>},
    {"avx512_panels", Isa::kAvx512, nullptr, Take<avx512::FloatGemm>},
    {"avx2_rows", Isa::kAvx2, FewRows, Take<avx2::FloatRows>},
    {"avx2_panels", Isa::kAvx2, nullptr, Take<avx2::FloatGemm>},
#endif
    {"baseline_rows", Isa::kBaseline, FewRows, Take<baseline::FloatRows>},
    {"baseline_panels", Isa::kBaseline, nullptr, Take<baseline::FloatGemm>},
};

// An output of the layer, with rows *ld apart.
Status CheckOutput(const LinearActArgs& a, const char* arg, const TensorView& t,
                   const TensorView& like, int64_t* ld) {
  KPT_RETURN_IF_ERROR(CheckLinearInput(a.op, arg, t, a.x, 1));
  bool same = t.rank == like.rank;
  for (int d = 0; same && d < like.rank; ++d) same = t.shape[d] == like.shape[d];
  if (!same) {
    return Status::InvalidArgument(Argument(a.op, arg) + "must have the shape of 'x' with " +
                                   std::to_string(like.dim(-1)) + " as its last dimension, got " +
                                   ShapeText(t));
  }
  KPT_RETURN_IF_ERROR(CheckWritesOnce(a.op, arg, t));
  KPT_RETURN_IF_ERROR(CheckOverlap(a.op, arg, t, "x", a.x, false));
  KPT_RETURN_IF_ERROR(CheckOverlap(a.op, arg, t, "weight", a.weight, false));
  KPT_RETURN_IF_ERROR(CheckOverlap(a.op, arg, t, "bias", a.bias, false));
  int64_t rows = 0;
  if (t.size() == 0 || AsMatrix(t, &rows, ld)) return Status();
  return Status::InvalidArgument(Argument(a.op, arg) +
                                 "must have rows that one stride walks, got " + ShapeText(t));
}

Status Check(const LinearActArgs& a, Epilogue* e) {
  TensorView out;
  KPT_RETURN_IF_ERROR(CheckLinear(a.op, a.x, a.weight, a.bias, a.activation, &out));
  KPT_RETURN_IF_ERROR(CheckOutput(a, "out", a.out, out, &e->ldy));
  if (!a.t.present()) return Status();
  TensorView t = out;
  t.shape[t.rank - 1] = a.weight.dim(0);
  KPT_RETURN_IF_ERROR(CheckOutput(a, "t", a.t, t, &e->ldt));
  return CheckOverlap(a.op, "t", a.t, "out", a.out, false);
}

}  // namespace

Status LinearAct(const LaunchContext& ctx, const LinearActArgs& args) {
  PanelGemm g;
  KPT_RETURN_IF_ERROR(Check(args, &g.epilogue));
  if (args.out.size() == 0) return Status();
  g.k = args.x.dim(-1);
  g.x = args.x.data;
  g.x_dtype = args.x.dtype;
  if (!AsMatrix(args.x, &g.m, &g.ldx)) {
    char* copy = ScratchAs<char>(
        kCopySlot, static_cast<size_t>(g.m * g.k) * static_cast<size_t>(ItemSize(g.x_dtype)) + 64);
    if (copy == nullptr) {
      return Status::ResourceExhausted(std::string(args.op) + ": no memory for scratch buffers");
    }
    CopyRows(ctx.num_threads, args.x, g.m, copy);
    g.x = copy;
    g.ldx = g.k;
  }
  g.weight = args.weight.data;
  g.ldw = args.weight.stride(0);
  g.epilogue.y = args.out.mutable_data();
  g.epilogue.y_dtype = args.out.dtype;
  g.epilogue.n = args.out.dim(-1);
  g.epilogue.bias = args.bias.present() ? args.bias.data : nullptr;
  g.epilogue.bias_dtype = args.x.dtype;
  g.epilogue.activation = args.activation;
  if (args.t.present()) g.epilogue.t = args.t.mutable_data();
  LinearKernel kernel = nullptr;
  KPT_RETURN_IF_ERROR(RunFirst(args.op, kVariants, ctx, Choice{&g, &kernel}));
  if (kernel(UsefulThreads(ctx.num_threads, g.m, g.k, g.columns()), g)) return Status();
  return Status::ResourceExhausted(std::string(args.op) + ": no memory for scratch buffers");
}

LinearKernel ChooseLinearKernel(Isa isa, const PanelGemm& g) {
  LaunchContext ctx;
  ctx.isa = isa;
  LinearKernel kernel = nullptr;
  // The baseline variants serve everything: there always is one.
  const Status status = RunFirst(kOp, kVariants, ctx, Choice{&g, &kernel});
  return status.ok() ? kernel : nullptr;
}

std::vector<VariantInfo> LinearActVariants() { return ListVariants(kVariants); }

}  // namespace kpt::cpu

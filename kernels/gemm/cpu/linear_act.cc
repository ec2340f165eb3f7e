#include "kernels/gemm/linear_act.h"

#include <string>

#include "kernels/base/row_checks.h"
#include "kernels/base/scratch.h"
#include "kernels/gemm/cpu/matrix_rows.h"
#include "kernels/gemm/cpu/panel_gemm.h"

namespace kpt::cpu {
namespace {

constexpr const char* kOp = "linear_act";
constexpr int kCopySlot = 3;  // the kernels use slots 0 and 1

// Up to here, dot products along the rows of the weight beat packing it (measured).
constexpr int64_t kMostRows = 32;
constexpr int64_t kMostBf16Rows = 16;

using KernelFn = bool (*)(int, const PanelGemm&);

template <KernelFn kKernel>
Status RunKernel(const LaunchContext& ctx, const PanelGemm& g) {
  if (kKernel(UsefulThreads(ctx.num_threads, g.m, g.k, g.columns()), g)) return Status();
  return Status::ResourceExhausted(std::string(kOp) + ": no memory for scratch buffers");
}

bool FewRows(const LaunchContext&, const PanelGemm& g) { return g.m <= kMostRows; }

#if defined(KPT_HAVE_X86_VARIANTS)
bool IsBf16(const LaunchContext&, const PanelGemm& g) { return g.x_dtype == DType::kBFloat16; }

bool FewBf16Rows(const LaunchContext& ctx, const PanelGemm& g) {
  return IsBf16(ctx, g) && g.m <= kMostBf16Rows;
}

// Intel's vdpbf16ps starts every second cycle, so that two float FMA a cycle do twice the work of
// it; on AMD it is the other way round. Bound by memory (few rows) it is the better one on both.
bool ManyBf16Rows(const LaunchContext& ctx, const PanelGemm& g) {
  static const bool float_is_faster = __builtin_cpu_is("intel") != 0;
  return IsBf16(ctx, g) && (!float_is_faster || ctx.force_variant != nullptr);
}
#endif

constexpr Variant<PanelGemm> kVariants[] = {
#if defined(KPT_HAVE_X86_VARIANTS)
    {"amx_bf16", Isa::kAmx, IsBf16, RunKernel<amx::Bf16Gemm>},
    {"avx512_bf16_rows", Isa::kAvx512Bf16, FewBf16Rows, RunKernel<avx512_bf16::Bf16Rows>},
    {"avx512_bf16_panels", Isa::kAvx512Bf16, ManyBf16Rows, RunKernel<avx512_bf16::Bf16Gemm>},
    {"avx512_rows", Isa::kAvx512, FewRows, RunKernel<avx512::FloatRows>},
    {"avx512_panels", Isa::kAvx512, nullptr, RunKernel<avx512::FloatGemm>},
    {"avx2_rows", Isa::kAvx2, FewRows, RunKernel<avx2::FloatRows>},
    {"avx2_panels", Isa::kAvx2, nullptr, RunKernel<avx2::FloatGemm>},
#endif
    {"baseline_rows", Isa::kBaseline, FewRows, RunKernel<baseline::FloatRows>},
    {"baseline_panels", Isa::kBaseline, nullptr, RunKernel<baseline::FloatGemm>},
};

Status Invalid(const char* arg, const std::string& expected, const TensorView& got) {
  return Status::InvalidArgument(Argument(kOp, arg) + "must " + expected + ", got " +
                                 ShapeText(got));
}

Status CheckDtype(const char* arg, const TensorView& t, const TensorView& x) {
  if (t.dtype == x.dtype) return Status();
  return Status::TypeError(Argument(kOp, arg) + "must have dtype " + Name(x.dtype) +
                           " like 'x', got " + Name(t.dtype));
}

bool IsSupported(ActivationKind kind) {
  switch (kind) {
    case ActivationKind::kNone:
    case ActivationKind::kRelu:
    case ActivationKind::kGelu:
    case ActivationKind::kGeluTanh:
    case ActivationKind::kSilu:
    case ActivationKind::kSwiglu:
    case ActivationKind::kGeglu:
      return true;
    default:
      return false;
  }
}

Status Check(const LinearActArgs& a) {
  KPT_RETURN_IF_ERROR(CheckRows(kOp, "x", a.x, 1));
  KPT_RETURN_IF_ERROR(CheckDtype("weight", a.weight, a.x));
  KPT_RETURN_IF_ERROR(CheckRows(kOp, "weight", a.weight, 2));
  KPT_RETURN_IF_ERROR(CheckDtype("out", a.out, a.x));
  KPT_RETURN_IF_ERROR(CheckRows(kOp, "out", a.out, 1));
  if (!IsSupported(a.activation)) {
    return Status::InvalidArgument(Argument(kOp, "activation") +
                                   "must be one of none, relu, gelu, gelu_tanh, silu, swiglu, "
                                   "geglu");
  }
  const bool gated = IsGated(a.activation);
  if (a.weight.rank != 2 || a.weight.dim(1) != a.x.dim(-1)) {
    return Invalid("weight", "have shape [N, " + std::to_string(a.x.dim(-1)) + "]", a.weight);
  }
  if (gated && a.weight.dim(0) % 2 != 0) {
    return Invalid("weight", "have an even number of rows for a gated activation", a.weight);
  }
  const int64_t n = gated ? a.weight.dim(0) / 2 : a.weight.dim(0);
  bool same = a.out.rank == a.x.rank && a.out.dim(-1) == n;
  for (int d = 0; same && d < a.x.rank - 1; ++d) same = a.out.shape[d] == a.x.shape[d];
  if (!same) return Invalid("out", "have the shape of 'x' with N as its last dimension", a.out);
  if (a.bias.present()) {
    KPT_RETURN_IF_ERROR(CheckDtype("bias", a.bias, a.x));
    KPT_RETURN_IF_ERROR(CheckRows(kOp, "bias", a.bias, 1));
    if (a.bias.rank != 1 || a.bias.dim(0) != a.weight.dim(0)) {
      return Invalid("bias", "have shape [" + std::to_string(a.weight.dim(0)) + "]", a.bias);
    }
  }
  KPT_RETURN_IF_ERROR(CheckWritesOnce(kOp, "out", a.out));
  KPT_RETURN_IF_ERROR(CheckOverlap(kOp, "out", a.out, "x", a.x, false));
  KPT_RETURN_IF_ERROR(CheckOverlap(kOp, "out", a.out, "weight", a.weight, false));
  return CheckOverlap(kOp, "out", a.out, "bias", a.bias, false);
}

}  // namespace

Status LinearAct(const LaunchContext& ctx, const LinearActArgs& args) {
  KPT_RETURN_IF_ERROR(Check(args));
  if (args.out.size() == 0) return Status();
  PanelGemm g;
  int64_t out_rows = 0;
  if (!AsMatrix(args.out, &out_rows, &g.epilogue.ldy)) {
    return Invalid("out", "have rows that one stride walks", args.out);
  }
  g.k = args.x.dim(-1);
  g.x = args.x.data;
  g.x_dtype = args.x.dtype;
  if (!AsMatrix(args.x, &g.m, &g.ldx)) {
    char* copy = ScratchAs<char>(
        kCopySlot, static_cast<size_t>(g.m * g.k) * static_cast<size_t>(ItemSize(g.x_dtype)) + 64);
    if (copy == nullptr) {
      return Status::ResourceExhausted(std::string(kOp) + ": no memory for scratch buffers");
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
  return RunFirst(kOp, kVariants, ctx, g);
}

std::vector<VariantInfo> LinearActVariants() { return ListVariants(kVariants); }

}  // namespace kpt::cpu

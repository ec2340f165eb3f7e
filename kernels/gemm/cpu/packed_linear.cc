#include "kernels/gemm/packed_linear.h"

#include <cstring>
#include <string>

#include "kernels/base/parallel_for.h"
#include "kernels/base/row_checks.h"
#include "kernels/base/scratch.h"
#include "kernels/gemm/cpu/matrix_rows.h"
#include "kernels/gemm/cpu/panel_gemm.h"
#include "kernels/gemm/cpu/quant_gemm.h"

namespace kpt {

bool ParsePackedCompute(const char* name, PackedCompute* compute) {
  if (std::strcmp(name, "weight_only") == 0) {
    *compute = PackedCompute::kWeightOnly;
    return true;
  }
  if (std::strcmp(name, "int8") == 0) {
    *compute = PackedCompute::kInt8;
    return true;
  }
  return false;
}

namespace cpu {
namespace {

constexpr const char* kOp = "packed_linear";

// The kernels keep slot 0 and 1 for themselves.
constexpr int kGatedSlot = 2;
constexpr int kCopySlot = 3;
constexpr int64_t kPanelAlignment = 64;
constexpr int64_t kGatedRows = 256;  // rows of a gated call computed before they are combined

Status OutOfScratch() {
  return Status::ResourceExhausted(std::string(kOp) + ": no memory for scratch buffers");
}

using EmitFn = void (*)(const Epilogue&, const float*, const float*, int64_t, int64_t, int64_t,
                        int64_t, int64_t);
using QuantFn = bool (*)(int, const QuantGemm&);
using PanelFn = bool (*)(int, const PanelGemm&);

struct Problem {
  const void* panels = nullptr;
  int64_t m = 0;
  int64_t k = 0;
  const void* x = nullptr;
  int64_t ldx = 0;
  Epilogue epilogue;  // of the whole call
};

Status MakeProblem(const LaunchContext& ctx, const PackedLinearArgs& a, Problem* p) {
  p->k = a.x.dim(-1);
  p->x = a.x.data;
  p->panels = a.packed.data;
  const bool walks = AsMatrix(a.x, &p->m, &p->ldx);
  const bool dense =
      IsDense(a.packed) && reinterpret_cast<uintptr_t>(a.packed.data) % kPanelAlignment == 0;
  if (!walks || !dense) {
    const int64_t x_bytes = walks ? 0 : p->m * p->k * ItemSize(a.x.dtype);
    const int64_t panels_at = (x_bytes + kPanelAlignment - 1) / kPanelAlignment * kPanelAlignment;
    const int64_t panel_bytes = dense ? 0 : a.packed.size() * ItemSize(a.packed.dtype);
    char* copy = ScratchAs<char>(kCopySlot, static_cast<size_t>(panels_at + panel_bytes));
    if (copy == nullptr) return OutOfScratch();
    if (!walks) {
      CopyRows(ctx.num_threads, a.x, p->m, copy);
      p->x = copy;
      p->ldx = p->k;
    }
    if (!dense) {
      CopyRows(ctx.num_threads, a.packed, a.packed.dim(0), copy + panels_at);
      p->panels = copy + panels_at;
    }
  }
  int64_t out_rows = 0;
  AsMatrix(a.out, &out_rows, &p->epilogue.ldy);
  p->epilogue.y = a.out.mutable_data();
  p->epilogue.y_dtype = a.out.dtype;
  p->epilogue.n = a.out.dim(-1);
  p->epilogue.bias = a.bias.present() ? a.bias.data : nullptr;
  p->epilogue.bias_dtype = a.bias.dtype;
  const bool one_scale = IsQuantized(a.format) && a.format != PackFormat::kInt4;
  p->epilogue.scale = one_scale ? a.scale.as<float>() : nullptr;
  p->epilogue.activation = a.activation;
  return Status();
}

// Rows [m0, m0 + rows) with `epilogue`, which is not gated.
bool RunKernel(const LaunchContext& ctx, const PackedLinearArgs& a, const Problem& p, int64_t m0,
               int64_t rows, const Epilogue& epilogue, QuantFn quant, PanelFn panel) {
  const char* x = static_cast<const char*>(p.x) + m0 * p.ldx * ItemSize(a.x.dtype);
  const int threads = UsefulThreads(ctx.num_threads, rows, p.k, a.out_features);
  if (panel != nullptr) {
    PanelGemm g;
    g.m = rows;
    g.k = p.k;
    g.x = x;
    g.x_dtype = a.x.dtype;
    g.ldx = p.ldx;
    g.panels = static_cast<const uint32_t*>(p.panels);
    g.epilogue = epilogue;
    return panel(threads, g);
  }
  QuantGemm g;
  g.m = rows;
  g.k = p.k;
  g.x = x;
  g.x_dtype = a.x.dtype;
  g.ldx = p.ldx;
  g.format = a.format;
  g.panels = static_cast<const char*>(p.panels);
  g.epilogue = epilogue;
  if (a.format == PackFormat::kInt4) {
    g.group_size = a.group_size;
    g.zero_points = a.packed.dim(1) > PackedPanelElements(a.format, p.k);
    g.scale = a.scale.as<float>();
    g.lds = a.scale.stride(0);
  }
  return quant(threads, g);
}

Status Run(const LaunchContext& ctx, const PackedLinearArgs& a, QuantFn quant, PanelFn panel,
           EmitFn emit) {
  Problem p;
  KPT_RETURN_IF_ERROR(MakeProblem(ctx, a, &p));
  if (!IsGated(a.activation)) {
    return RunKernel(ctx, a, p, 0, p.m, p.epilogue, quant, panel) ? Status() : OutOfScratch();
  }
  // Gate and up columns of one output lie in different panels, at any distance: first all columns
  // of a block of rows with scale and bias to a buffer, then the two halves together.
  const int64_t n = a.out_features;
  const int64_t ld = (PanelCount(n) + 1) * kPanelCols;
  const int64_t block = p.m < kGatedRows ? p.m : kGatedRows;
  float* buffer = ScratchAs<float>(kGatedSlot, static_cast<size_t>(block * ld));
  if (buffer == nullptr) return OutOfScratch();
  Epilogue first = p.epilogue;
  first.y = buffer;
  first.y_dtype = DType::kFloat32;
  first.ldy = ld;
  first.n = n;
  first.activation = ActivationKind::kNone;
  Epilogue second = p.epilogue;
  second.scale = nullptr;
  second.bias = nullptr;
  for (int64_t m0 = 0; m0 < p.m; m0 += block) {
    const int64_t rows = p.m - m0 < block ? p.m - m0 : block;
    if (!RunKernel(ctx, a, p, m0, rows, first, quant, panel)) return OutOfScratch();
    ParallelFor(ctx.num_threads, rows, 1, [&](int64_t begin, int64_t end) {
      const float* gate = buffer + begin * ld;
      emit(second, gate, gate + second.n, ld, m0 + begin, end - begin, 0, second.n);
    });
  }
  return Status();
}

bool IsInt8Compute(const LaunchContext&, const PackedLinearArgs& a) {
  return a.compute == PackedCompute::kInt8;
}
bool IsFloatPanels(const LaunchContext&, const PackedLinearArgs& a) {
  return a.format == PackFormat::kFp32;
}
bool IsDecoded(const LaunchContext&, const PackedLinearArgs& a) {
  return a.compute == PackedCompute::kWeightOnly && a.format != PackFormat::kFp32;
}
#if defined(KPT_HAVE_X86_VARIANTS)
bool IsBf16Decoded(const LaunchContext& ctx, const PackedLinearArgs& a) {
  return IsDecoded(ctx, a) && a.format != PackFormat::kBf16 && a.x.dtype == DType::kBFloat16;
}
// The tiles add up all of K, which int4 has a scale for in each group.
bool IsAmxInt8Compute(const LaunchContext& ctx, const PackedLinearArgs& a) {
  return IsInt8Compute(ctx, a) && a.format != PackFormat::kInt4;
}
bool IsAmxDecoded(const LaunchContext& ctx, const PackedLinearArgs& a) {
  return IsBf16Decoded(ctx, a) && a.format != PackFormat::kInt4;
}
bool IsBf16Panels(const LaunchContext&, const PackedLinearArgs& a) {
  return a.format == PackFormat::kBf16 && a.x.dtype == DType::kBFloat16;
}
#endif

template <QuantFn kQuant, PanelFn kPanel, EmitFn kEmit>
Status RunWith(const LaunchContext& ctx, const PackedLinearArgs& a) {
  return Run(ctx, a, kQuant, kPanel, kEmit);
}

constexpr Variant<PackedLinearArgs> kVariants[] = {
#if defined(KPT_HAVE_X86_VARIANTS)
    {"amx_int8", Isa::kAmx, IsAmxInt8Compute, RunWith<amx::Int8Gemm, nullptr, avx512::EmitRows>},
    {"amx_bf16_decode", Isa::kAmx, IsAmxDecoded,
     RunWith<amx::WeightOnlyGemm, nullptr, avx512::EmitRows>},
    {"amx_bf16_panels", Isa::kAmx, IsBf16Panels, RunWith<nullptr, amx::Bf16Gemm, avx512::EmitRows>},
    {"avx512_vnni_int8", Isa::kAvx512Bf16, IsInt8Compute,
     RunWith<avx512_bf16::Int8Gemm, nullptr, avx512::EmitRows>},
    {"avx512_bf16_decode", Isa::kAvx512Bf16, IsBf16Decoded,
     RunWith<avx512_bf16::WeightOnlyGemm, nullptr, avx512::EmitRows>},
    {"avx512_bf16_panels", Isa::kAvx512Bf16, IsBf16Panels,
     RunWith<nullptr, avx512_bf16::Bf16Gemm, avx512::EmitRows>},
    {"avx512_int8", Isa::kAvx512, IsInt8Compute,
     RunWith<avx512::Int8Gemm, nullptr, avx512::EmitRows>},
    {"avx512_float_decode", Isa::kAvx512, IsDecoded,
     RunWith<avx512::WeightOnlyGemm, nullptr, avx512::EmitRows>},
    {"avx512_float_panels", Isa::kAvx512, IsFloatPanels,
     RunWith<nullptr, avx512::FloatGemm, avx512::EmitRows>},
    {"avx2_int8", Isa::kAvx2, IsInt8Compute, RunWith<avx2::Int8Gemm, nullptr, avx2::EmitRows>},
    {"avx2_float_decode", Isa::kAvx2, IsDecoded,
     RunWith<avx2::WeightOnlyGemm, nullptr, avx2::EmitRows>},
    {"avx2_float_panels", Isa::kAvx2, IsFloatPanels,
     RunWith<nullptr, avx2::FloatGemm, avx2::EmitRows>},
#endif
    {"baseline_int8", Isa::kBaseline, IsInt8Compute,
     RunWith<baseline::Int8Gemm, nullptr, baseline::EmitRows>},
    {"baseline_float_decode", Isa::kBaseline, IsDecoded,
     RunWith<baseline::WeightOnlyGemm, nullptr, baseline::EmitRows>},
    {"baseline_float_panels", Isa::kBaseline, IsFloatPanels,
     RunWith<nullptr, baseline::FloatGemm, baseline::EmitRows>},
};

Status Invalid(const char* arg, const std::string& expected, const TensorView& got) {
  return Status::InvalidArgument(Argument(kOp, arg) + "must " + expected + ", got " +
                                 ShapeText(got));
}

Status InvalidNumber(const char* arg, const std::string& expected, int64_t got) {
  return Status::InvalidArgument(Argument(kOp, arg) + "must " + expected + ", got " +
                                 std::to_string(got));
}

Status CheckDtype(const char* arg, const TensorView& t, DType expected) {
  if (t.dtype == expected) return Status();
  return Status::TypeError(Argument(kOp, arg) + "must have dtype " + Name(expected) + ", got " +
                           Name(t.dtype));
}

Status CheckOptions(const PackedLinearArgs& a) {
  if (a.out_features < 0) {
    return InvalidNumber("out_features", "not be negative", a.out_features);
  }
  if (!IsGroupSize(a.format, a.group_size)) {
    const bool grouped = a.format == PackFormat::kInt4;
    return InvalidNumber(
        "group_size",
        std::string("be -1 (one scale per output") + (grouped ? "), 32, 64 or 128" : ")"),
        a.group_size);
  }
  switch (a.activation) {
    case ActivationKind::kNone:
    case ActivationKind::kRelu:
    case ActivationKind::kGelu:
    case ActivationKind::kGeluTanh:
    case ActivationKind::kSilu:
      break;
    case ActivationKind::kSwiglu:
    case ActivationKind::kGeglu:
      if (a.out_features % 2 != 0) {
        return InvalidNumber("out_features", "be even for a gated activation", a.out_features);
      }
      break;
    default:
      return Status::InvalidArgument(Argument(kOp, "activation") +
                                     "must be one of none, relu, gelu, gelu_tanh, silu, swiglu, "
                                     "geglu");
  }
  if (a.compute == PackedCompute::kInt8) {
    if (a.format != PackFormat::kInt8 && a.format != PackFormat::kInt4) {
      return Status::InvalidArgument(Argument(kOp, "format") +
                                     "must be 'int8' or 'int4' for compute 'int8', got '" +
                                     Name(a.format) + "'");
    }
    if (a.x.dim(-1) > kMaxInt8ComputeK) {
      return Invalid(
          "x", "have at most " + std::to_string(kMaxInt8ComputeK) + " features for compute 'int8'",
          a.x);
    }
  }
  return Status();
}

Status CheckTensors(const PackedLinearArgs& a) {
  const int64_t n = a.out_features;
  const std::string features = "have shape [" + std::to_string(n) + "]";
  const int64_t panels = PackedPanels(n);
  const int64_t elements = PackedPanelElements(a.format, a.x.dim(-1));
  const bool grouped = a.format == PackFormat::kInt4;
  const int64_t groups = PackedGroups(a.x.dim(-1), a.group_size);
  const int64_t with_zeros =
      grouped ? PackedPanelElements(a.format, a.x.dim(-1), groups) : elements;
  KPT_RETURN_IF_ERROR(CheckDtype("packed", a.packed, PackedDType(a.format)));
  if (a.packed.rank != 2 || a.packed.dim(0) != panels ||
      (a.packed.dim(1) != elements && a.packed.dim(1) != with_zeros) ||
      (elements > 1 && a.packed.stride(1) != 1)) {
    return Invalid("packed",
                   "have shape [" + std::to_string(panels) + ", " + std::to_string(elements) +
                       "] and a dense last dimension",
                   a.packed);
  }
  KPT_RETURN_IF_ERROR(CheckDtype("scale", a.scale, DType::kFloat32));
  KPT_RETURN_IF_ERROR(CheckRows(kOp, "scale", a.scale, 1));
  if (grouped) {
    if (a.scale.rank != 2 || a.scale.dim(0) != groups || a.scale.dim(1) != n) {
      return Invalid("scale",
                     "have shape [" + std::to_string(groups) + ", " + std::to_string(n) + "]",
                     a.scale);
    }
  } else if (a.scale.rank != 1 || a.scale.dim(0) != n) {
    return Invalid("scale", features, a.scale);
  }
  if (a.bias.present()) {
    KPT_RETURN_IF_ERROR(CheckDtype("bias", a.bias, a.x.dtype));
    KPT_RETURN_IF_ERROR(CheckRows(kOp, "bias", a.bias, 1));
    if (a.bias.rank != 1 || a.bias.dim(0) != n) return Invalid("bias", features, a.bias);
  }
  KPT_RETURN_IF_ERROR(CheckDtype("out", a.out, a.x.dtype));
  KPT_RETURN_IF_ERROR(CheckRows(kOp, "out", a.out, 1));
  bool fits = a.out.rank == a.x.rank && a.out.dim(-1) == (IsGated(a.activation) ? n / 2 : n);
  for (int i = 0; fits && i + 1 < a.x.rank; ++i) fits = a.out.dim(i) == a.x.dim(i);
  int64_t rows = 0;
  int64_t stride = 0;
  if (!fits || !AsMatrix(a.out, &rows, &stride)) {
    return Invalid("out",
                   "have the leading dimensions of 'x', one stride over all rows, and " +
                       std::to_string(n) + " features (half of them when gated)",
                   a.out);
  }
  KPT_RETURN_IF_ERROR(CheckWritesOnce(kOp, "out", a.out));
  KPT_RETURN_IF_ERROR(CheckOverlap(kOp, "out", a.out, "x", a.x, false));
  KPT_RETURN_IF_ERROR(CheckOverlap(kOp, "out", a.out, "packed", a.packed, false));
  KPT_RETURN_IF_ERROR(CheckOverlap(kOp, "out", a.out, "scale", a.scale, false));
  return CheckOverlap(kOp, "out", a.out, "bias", a.bias, false);
}

}  // namespace

Status PackedLinear(const LaunchContext& ctx, const PackedLinearArgs& args) {
  KPT_RETURN_IF_ERROR(CheckRows(kOp, "x", args.x, 1));
  KPT_RETURN_IF_ERROR(CheckOptions(args));
  KPT_RETURN_IF_ERROR(CheckTensors(args));
  if (args.out.size() == 0) return Status();
  return RunFirst(kOp, kVariants, ctx, args);
}

std::vector<VariantInfo> PackedLinearVariants() { return ListVariants(kVariants); }

}  // namespace cpu
}  // namespace kpt

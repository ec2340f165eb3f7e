#include "kernels/gemm/packed_linear.h"

#include <cstring>
#include <string>

#include "kernels/base/parallel_for.h"
#include "kernels/base/scratch.h"
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

// The kernels keep slot 0 and 1 for themselves.
constexpr int kGatedSlot = 2;
constexpr int kCopySlot = 3;
constexpr int64_t kGatedRows = 256;  // rows of a gated call computed before they are combined

// Leading dimensions as one: true when a single stride walks all rows.
bool AsMatrix(const TensorView& t, int64_t* rows, int64_t* stride) {
  *rows = 1;
  *stride = t.dim(-1);
  bool first = true;
  for (int i = t.rank - 2; i >= 0; --i) {
    if (t.shape[i] == 1) continue;
    if (first) {
      *stride = t.strides[i];
      first = false;
    } else if (t.strides[i] != *stride * *rows) {
      return false;
    }
    *rows *= t.shape[i];
  }
  return true;
}

// Copies the rows of t, in order, to a dense matrix.
void CopyRows(const LaunchContext& ctx, const TensorView& t, int64_t rows, char* out) {
  const int64_t item = ItemSize(t.dtype);
  const size_t row_bytes = static_cast<size_t>(t.dim(-1) * item);
  ParallelFor(ctx.num_threads, rows, 64, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      int64_t offset = 0;
      int64_t left = r;
      for (int i = t.rank - 2; i >= 0; --i) {
        offset += left % t.shape[i] * t.strides[i];
        left /= t.shape[i];
      }
      std::memcpy(out + static_cast<size_t>(r) * row_bytes, t.as<char>() + offset * item,
                  row_bytes);
    }
  });
}

Status OutOfScratch() {
  return Status::ResourceExhausted("packed_linear: no memory for scratch buffers");
}

using EmitFn = void (*)(const Epilogue&, const float*, const float*, int64_t, int64_t, int64_t,
                        int64_t, int64_t);
using QuantFn = bool (*)(int, const QuantGemm&);
using PanelFn = bool (*)(int, const PanelGemm&);

struct Problem {
  int64_t m = 0;
  int64_t k = 0;
  const void* x = nullptr;
  int64_t ldx = 0;
  Epilogue epilogue;  // of the whole call
};

Status MakeProblem(const LaunchContext& ctx, const PackedLinearArgs& a, Problem* p) {
  p->k = a.x.dim(-1);
  p->x = a.x.data;
  if (!AsMatrix(a.x, &p->m, &p->ldx)) {
    p->m = a.out.size() / a.out.dim(-1);
    p->ldx = p->k;
    char* copy = ScratchAs<char>(kCopySlot, static_cast<size_t>(a.x.size() * ItemSize(a.x.dtype)));
    if (copy == nullptr) return OutOfScratch();
    CopyRows(ctx, a.x, p->m, copy);
    p->x = copy;
  }
  int64_t out_rows = 0;
  AsMatrix(a.out, &out_rows, &p->epilogue.ldy);
  p->epilogue.y = a.out.mutable_data();
  p->epilogue.y_dtype = a.out.dtype;
  p->epilogue.n = a.out.dim(-1);
  p->epilogue.bias = a.bias.present() ? a.bias.data : nullptr;
  p->epilogue.bias_dtype = a.bias.dtype;
  const bool scaled = a.format == PackFormat::kInt8 || a.format == PackFormat::kFp8E4M3;
  p->epilogue.scale = scaled ? a.scale.as<float>() : nullptr;
  p->epilogue.activation = a.activation;
  return Status();
}

// Rows [m0, m0 + rows) with `epilogue`, which is not gated.
bool RunKernel(const LaunchContext& ctx, const PackedLinearArgs& a, const Problem& p, int64_t m0,
               int64_t rows, const Epilogue& epilogue, QuantFn quant, PanelFn panel) {
  const char* x = static_cast<const char*>(p.x) + m0 * p.ldx * ItemSize(a.x.dtype);
  if (panel != nullptr) {
    PanelGemm g;
    g.m = rows;
    g.k = p.k;
    g.x = x;
    g.x_dtype = a.x.dtype;
    g.ldx = p.ldx;
    g.panels = a.packed.as<uint32_t>();
    g.epilogue = epilogue;
    return panel(ctx.num_threads, g);
  }
  QuantGemm g;
  g.m = rows;
  g.k = p.k;
  g.x = x;
  g.x_dtype = a.x.dtype;
  g.ldx = p.ldx;
  g.format = a.format;
  g.panels = a.packed.as<char>();
  g.epilogue = epilogue;
  return quant(ctx.num_threads, g);
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
    {"amx_int8", Isa::kAmx, IsInt8Compute, RunWith<amx::Int8Gemm, nullptr, avx512::EmitRows>},
    {"amx_bf16_decode", Isa::kAmx, IsBf16Decoded,
     RunWith<amx::WeightOnlyGemm, nullptr, avx512::EmitRows>},
    {"amx_bf16_panels", Isa::kAmx, IsBf16Panels,
     RunWith<nullptr, amx::Bf16Gemm, avx512::EmitRows>},
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

Status Invalid(const std::string& what) {
  return Status::InvalidArgument("packed_linear: " + what);
}
Status WrongType(const std::string& what) { return Status::TypeError("packed_linear: " + what); }

bool IsDense(const TensorView& t) {
  int64_t stride = 1;
  for (int i = t.rank - 1; i >= 0; --i) {
    if (t.shape[i] > 1 && t.strides[i] != stride) return false;
    stride *= t.shape[i];
  }
  return true;
}

Status CheckOptions(const PackedLinearArgs& a) {
  if (a.out_features < 0) {
    return Invalid("argument 'out_features' must not be negative, got " +
                   std::to_string(a.out_features));
  }
  if (a.group_size != -1) {
    return Invalid("argument 'group_size' must be -1 (one scale per output) for format " +
                   std::string(Name(a.format)) + ", got " + std::to_string(a.group_size));
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
        return Invalid("argument 'out_features' must be even for a gated activation, got " +
                       std::to_string(a.out_features));
      }
      break;
    default:
      return Invalid(
          "argument 'activation' must be one of none, relu, gelu, gelu_tanh, silu, swiglu, geglu");
  }
  if (a.compute == PackedCompute::kInt8) {
    if (a.format != PackFormat::kInt8) {
      return Invalid(std::string("compute='int8' needs format='int8', got '") + Name(a.format) +
                     "'");
    }
    if (a.x.rank > 0 && a.x.dim(-1) > kMaxInt8ComputeK) {
      return Invalid("compute='int8' takes at most " + std::to_string(kMaxInt8ComputeK) +
                     " input features, got " + std::to_string(a.x.dim(-1)));
    }
  }
  return Status();
}

Status CheckTensors(const PackedLinearArgs& a) {
  const DType dtype = a.x.dtype;
  if (dtype != DType::kFloat32 && dtype != DType::kFloat16 && dtype != DType::kBFloat16) {
    return WrongType(std::string("argument 'x' must be float32, float16 or bfloat16, got ") +
                     Name(dtype));
  }
  if (a.x.rank < 1) return Invalid("argument 'x' must have at least 1 dimension [..., in]");
  const int64_t n = a.out_features;
  const int64_t k = a.x.dim(-1);
  if (a.packed.dtype != PackedDType(a.format)) {
    return WrongType(std::string("argument 'packed' must be ") + Name(PackedDType(a.format)) +
                     " for format " + Name(a.format) + ", got " + Name(a.packed.dtype));
  }
  if (a.packed.rank != 2 || a.packed.dim(0) != PackedPanels(n) ||
      a.packed.dim(1) != PackedPanelElements(a.format, k) || !IsDense(a.packed)) {
    return Invalid("argument 'packed' must be what pack_weight gives for [" + std::to_string(n) +
                   ", " + std::to_string(k) + "] in format " + Name(a.format) +
                   ": dense, shape [" + std::to_string(PackedPanels(n)) + ", " +
                   std::to_string(PackedPanelElements(a.format, k)) + "]");
  }
  if (a.scale.dtype != DType::kFloat32) {
    return WrongType(std::string("argument 'scale' must be float32, got ") + Name(a.scale.dtype));
  }
  if (a.scale.rank != 1 || a.scale.dim(0) != n || !IsDense(a.scale)) {
    return Invalid("argument 'scale' must be dense with shape [" + std::to_string(n) + "]");
  }
  if (a.bias.present()) {
    if (a.bias.dtype != dtype) {
      return WrongType(std::string("argument 'bias' must be ") + Name(dtype) + " like x, got " +
                       Name(a.bias.dtype));
    }
    if (a.bias.rank != 1 || a.bias.dim(0) != n || !IsDense(a.bias)) {
      return Invalid("argument 'bias' must be dense with shape [" + std::to_string(n) + "]");
    }
  }
  const int64_t out_n = IsGated(a.activation) ? n / 2 : n;
  bool fits = a.out.rank == a.x.rank && a.out.dtype == dtype && a.out.dim(-1) == out_n;
  for (int i = 0; fits && i + 1 < a.x.rank; ++i) fits = a.out.dim(i) == a.x.dim(i);
  int64_t rows = 0;
  int64_t stride = 0;
  if (!fits || !AsMatrix(a.out, &rows, &stride)) {
    return Invalid("the output must have the dtype and leading dimensions of x, " +
                   std::to_string(out_n) + " features and one stride over all rows");
  }
  return Status();
}

}  // namespace

Status PackedLinear(const LaunchContext& ctx, const PackedLinearArgs& args) {
  KPT_RETURN_IF_ERROR(CheckOptions(args));
  KPT_RETURN_IF_ERROR(CheckTensors(args));
  if (args.out.size() == 0) return Status();
  return RunFirst("packed_linear", kVariants, ctx, args);
}

std::vector<VariantInfo> PackedLinearVariants() { return ListVariants(kVariants); }

}  // namespace cpu
}  // namespace kpt

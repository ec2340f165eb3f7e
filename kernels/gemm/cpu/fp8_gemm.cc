#include "kernels/gemm/fp8_gemm.h"

#include "kernels/gemm/cpu/byte_checks.h"

namespace kpt::cpu {
namespace {

constexpr const char* kOp = "fp8_gemm";

using KernelFn = bool (*)(int, const ByteGemm&);

template <KernelFn kKernel>
Status RunKernel(const LaunchContext& ctx, const ByteGemm& g) {
  return RunByteKernel(kOp, kKernel, ctx, g);
}

constexpr Variant<ByteGemm> kVariants[] = {
#if defined(KPT_HAVE_X86_VARIANTS)
    {"avx512_bf16_rows", Isa::kAvx512Bf16, IsFewRows, RunKernel<avx512_bf16::Fp8Rows>},
    {"amx_bf16_tiles", Isa::kAmx, nullptr, RunKernel<amx::Fp8Tiles>},
    {"avx512_bf16_tiles", Isa::kAvx512Bf16, nullptr, RunKernel<avx512_bf16::Fp8Tiles>},
    {"avx512_tiles", Isa::kAvx512, nullptr, RunKernel<avx512::Fp8Tiles>},
    {"avx2_tiles", Isa::kAvx2, nullptr, RunKernel<avx2::Fp8Tiles>},
#endif
    {"baseline_tiles", Isa::kBaseline, nullptr, RunKernel<baseline::Fp8Tiles>},
};

bool IsFp8(const TensorView& t) {
  return t.dtype == DType::kFloat8E4M3FN || t.dtype == DType::kFloat8E5M2;
}

int64_t Blocks(int64_t n) { return n / kFp8Block + (n % kFp8Block != 0 ? 1 : 0); }

// `rows` and `rows_per_scale`: those of the factor, and how many of them share a block's scale.
Status MakeScale(const char* arg, const TensorView& scale, int64_t rows, int64_t k,
                 int64_t rows_per_scale, ByteScale* out) {
  KPT_RETURN_IF_ERROR(CheckIsFloat32(kOp, arg, scale));
  const int64_t groups = rows_per_scale == 1 ? rows : Blocks(rows);
  const bool is_row = scale.rank == 1 && scale.dim(0) == rows;
  const bool is_block = scale.rank == 2 && scale.dim(0) == groups && scale.dim(1) == Blocks(k);
  if (scale.rank != 0 && !is_row && !is_block) {
    return Status::InvalidArgument(Argument(kOp, arg) + "must have shape [], [" +
                                   std::to_string(rows) + "] or [" + std::to_string(groups) + ", " +
                                   std::to_string(Blocks(k)) + "], got " + ShapeText(scale));
  }
  if (k == 0) return Status();  // nothing to scale
  out->data = scale.as<float>();
  out->rows_per_scale = is_block ? rows_per_scale : 1;
  out->step = scale.rank > 0 ? scale.strides[0] : 0;
  out->block_step = is_block ? scale.strides[1] : 0;
  // One block of K: nothing changes along it, whatever stride it has.
  if (is_block && scale.dim(1) == 1) out->block_step = 0;
  return Status();
}

Status Check(const Fp8GemmArgs& a) {
  for (const auto& [arg, t] : {std::pair<const char*, const TensorView&>{"a", a.a}, {"b", a.b}}) {
    if (!IsFp8(t)) {
      return Status::TypeError(Argument(kOp, arg) +
                               "must have dtype float8_e4m3fn or float8_e5m2, got " +
                               Name(t.dtype));
    }
  }
  switch (a.activation) {
    case ActivationKind::kNone:
    case ActivationKind::kRelu:
    case ActivationKind::kGelu:
    case ActivationKind::kGeluTanh:
    case ActivationKind::kSilu:
    case ActivationKind::kSwiglu:
    case ActivationKind::kGeglu:
      break;
    default:
      return Status::InvalidArgument(Argument(kOp, "activation") +
                                     "must be one of none, relu, gelu, gelu_tanh, silu, swiglu, "
                                     "geglu");
  }
  return CheckByteFactors(kOp, a.out, a.a, a.b, a.bias, IsGated(a.activation));
}

}  // namespace

Status Fp8Gemm(const LaunchContext& ctx, const Fp8GemmArgs& args) {
  KPT_RETURN_IF_ERROR(Check(args));
  ByteGemm g = MakeByteGemm(args.out, args.a, args.b, args.bias, args.activation);
  KPT_RETURN_IF_ERROR(MakeScale("scale_a", args.scale_a, g.m, g.k, 1, &g.a_scale));
  KPT_RETURN_IF_ERROR(MakeScale("scale_b", args.scale_b, g.columns(), g.k, kFp8Block, &g.b_scale));
  KPT_RETURN_IF_ERROR(CheckOverlap(kOp, "out", args.out, "scale_a", args.scale_a, false));
  KPT_RETURN_IF_ERROR(CheckOverlap(kOp, "out", args.out, "scale_b", args.scale_b, false));
  if (args.out.size() == 0) return Status();
  return RunFirst(kOp, kVariants, ctx, g);
}

std::vector<VariantInfo> Fp8GemmVariants() { return ListVariants(kVariants); }

}  // namespace kpt::cpu

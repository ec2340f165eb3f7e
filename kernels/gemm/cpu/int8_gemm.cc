#include "kernels/gemm/int8_gemm.h"

#include "kernels/gemm/cpu/byte_checks.h"

namespace kpt::cpu {
namespace {

constexpr const char* kOp = "int8_gemm";

using KernelFn = bool (*)(int, const ByteGemm&);

template <KernelFn kKernel>
Status RunKernel(const LaunchContext& ctx, const ByteGemm& g) {
  return RunByteKernel(kOp, kKernel, ctx, g);
}

constexpr Variant<ByteGemm> kVariants[] = {
#if defined(KPT_HAVE_X86_VARIANTS)
    {"avx512_vnni_rows", Isa::kAvx512Bf16, IsFewRows, RunKernel<avx512_bf16::Int8Rows>},
    {"amx_int8_tiles", Isa::kAmx, nullptr, RunKernel<amx::Int8Tiles>},
    {"avx512_vnni_tiles", Isa::kAvx512Bf16, nullptr, RunKernel<avx512_bf16::Int8Tiles>},
    {"avx512_tiles", Isa::kAvx512, nullptr, RunKernel<avx512::Int8Tiles>},
    {"avx2_tiles", Isa::kAvx2, nullptr, RunKernel<avx2::Int8Tiles>},
#endif
    {"baseline_tiles", Isa::kBaseline, nullptr, RunKernel<baseline::Int8Tiles>},
};

bool HasRows(const TensorView& t, int64_t rows) {
  return t.rank == 0 || (t.rank == 1 && t.dim(0) == rows);
}

Status MakeScale(const char* arg, const TensorView& scale, int64_t rows, int64_t k,
                 ByteScale* out) {
  KPT_RETURN_IF_ERROR(CheckIsFloat32(kOp, arg, scale));
  if (!HasRows(scale, rows)) {
    return Status::InvalidArgument(Argument(kOp, arg) + "must have shape [] or [" +
                                   std::to_string(rows) + "], got " + ShapeText(scale));
  }
  if (k == 0) return Status();  // nothing to scale
  out->data = scale.as<float>();
  out->step = scale.rank > 0 ? scale.strides[0] : 0;
  return Status();
}

Status CheckZeroPoint(const TensorView& t, int64_t rows) {
  if (!t.present()) return Status();
  if (t.dtype != DType::kInt32) {
    return Status::TypeError(Argument(kOp, "zero_point_a") + "must have dtype int32, got " +
                             Name(t.dtype));
  }
  if (t.rank == 1 && t.dim(0) == rows) return Status();
  return Status::InvalidArgument(Argument(kOp, "zero_point_a") + "must have shape [" +
                                 std::to_string(rows) + "], got " + ShapeText(t));
}

Status Check(const Int8GemmArgs& a) {
  for (const auto& [arg, t] : {std::pair<const char*, const TensorView&>{"a", a.a}, {"b", a.b}}) {
    if (t.dtype != DType::kInt8) {
      return Status::TypeError(Argument(kOp, arg) + "must have dtype int8, got " + Name(t.dtype));
    }
  }
  KPT_RETURN_IF_ERROR(CheckByteFactors(kOp, a.out, a.a, a.b, a.bias, false));
  if (a.a.dim(1) > kMaxInt8GemmK) {
    return Status::InvalidArgument(Argument(kOp, "a") + "must have at most " +
                                   std::to_string(kMaxInt8GemmK) + " columns, got " +
                                   ShapeText(a.a));
  }
  return CheckZeroPoint(a.zero_point_a, a.a.dim(0));
}

}  // namespace

Status Int8Gemm(const LaunchContext& ctx, const Int8GemmArgs& args) {
  KPT_RETURN_IF_ERROR(Check(args));
  ByteGemm g = MakeByteGemm(args.out, args.a, args.b, args.bias, ActivationKind::kNone);
  KPT_RETURN_IF_ERROR(MakeScale("scale_a", args.scale_a, g.m, g.k, &g.a_scale));
  KPT_RETURN_IF_ERROR(MakeScale("scale_b", args.scale_b, g.epilogue.n, g.k, &g.b_scale));
  KPT_RETURN_IF_ERROR(CheckOverlap(kOp, "out", args.out, "scale_a", args.scale_a, false));
  KPT_RETURN_IF_ERROR(CheckOverlap(kOp, "out", args.out, "scale_b", args.scale_b, false));
  KPT_RETURN_IF_ERROR(CheckOverlap(kOp, "out", args.out, "zero_point_a", args.zero_point_a, false));
  if (args.out.size() == 0) return Status();
  if (args.zero_point_a.present()) {
    g.zero_point = args.zero_point_a.as<int32_t>();
    g.zero_point_step = args.zero_point_a.strides[0];
  }
  return RunFirst(kOp, kVariants, ctx, g);
}

std::vector<VariantInfo> Int8GemmVariants() { return ListVariants(kVariants); }

}  // namespace kpt::cpu

// attention_forward: argument checks, variant table.
#include "kernels/attention/attention_forward.h"

#include <cmath>
#include <string>

#include "kernels/attention/cpu/attention_checks.h"
#include "kernels/attention/cpu/flash_driver.h"
#include "kernels/attention/cpu/flash_kernels.h"
#include "kernels/base/row_checks.h"

namespace kpt::cpu {
namespace {

constexpr char kOp[] = "attention_forward";

Status CheckTensors(const AttentionForwardArgs& a) {
  KPT_RETURN_IF_ERROR(CheckRank(kOp, "q", a.q, 4));
  KPT_RETURN_IF_ERROR(CheckRank(kOp, "k", a.k, 4));
  KPT_RETURN_IF_ERROR(CheckRank(kOp, "v", a.v, 4));
  const DType dtype = a.q.dtype;
  if (dtype != DType::kFloat32 && dtype != DType::kFloat16 && dtype != DType::kBFloat16) {
    return WrongType(kOp, "q", "float32, float16 or bfloat16", dtype);
  }
  if (a.k.dtype != dtype) return WrongType(kOp, "k", Name(dtype), a.k.dtype);
  if (a.v.dtype != dtype) return WrongType(kOp, "v", Name(dtype), a.v.dtype);
  if (a.out.dtype != dtype) return WrongType(kOp, "out", Name(dtype), a.out.dtype);
  if (a.lse.dtype != DType::kFloat32) return WrongType(kOp, "lse", "float32", a.lse.dtype);

  const int64_t batch = a.q.dim(0), heads_q = a.q.dim(1), heads_kv = a.k.dim(1);
  const int64_t k_shape[4] = {batch, heads_kv, a.k.dim(2), a.q.dim(3)};
  KPT_RETURN_IF_ERROR(CheckShape(kOp, "k", a.k, k_shape, 4));
  const int64_t v_shape[4] = {batch, heads_kv, a.k.dim(2), a.v.dim(3)};
  KPT_RETURN_IF_ERROR(CheckShape(kOp, "v", a.v, v_shape, 4));
  const int64_t out_shape[4] = {batch, heads_q, a.q.dim(2), a.v.dim(3)};
  KPT_RETURN_IF_ERROR(CheckShape(kOp, "out", a.out, out_shape, 4));
  KPT_RETURN_IF_ERROR(CheckShape(kOp, "lse", a.lse, out_shape, 3));
  if (heads_q != 0 && (heads_kv == 0 || heads_q % heads_kv != 0)) {
    return Wrong(kOp, "q", "have a multiple of k's " + std::to_string(heads_kv) + " heads",
                 std::to_string(heads_q));
  }
  KPT_RETURN_IF_ERROR(CheckDense(kOp, "q", a.q));
  KPT_RETURN_IF_ERROR(CheckDense(kOp, "k", a.k));
  KPT_RETURN_IF_ERROR(CheckDense(kOp, "v", a.v));
  return CheckDense(kOp, "out", a.out);
}

Status CheckMask(const AttentionForwardArgs& a) {
  if (!a.mask.present()) return Status();
  if (a.mask.dtype != DType::kBool && a.mask.dtype != DType::kFloat32 &&
      a.mask.dtype != a.q.dtype) {
    return WrongType(kOp, "mask", std::string("bool, float32 or ") + Name(a.q.dtype), a.mask.dtype);
  }
  TensorView full;
  full.rank = 4;
  for (int i = 0; i < 3; ++i) full.shape[i] = a.q.dim(i);
  full.shape[3] = a.k.dim(2);
  bool fits = a.mask.rank <= 4;
  for (int i = 1; i <= a.mask.rank && fits; ++i) {
    fits = a.mask.dim(-i) == full.dim(-i) || a.mask.dim(-i) == 1;
  }
  return fits ? Status() : Wrong(kOp, "mask", "broadcast to " + ShapeText(full), ShapeText(a.mask));
}

Status CheckDocuments(const AttentionForwardArgs& a) {
  if (a.q_doc.present() != a.k_doc.present()) {
    const bool q_missing = !a.q_doc.present();
    return Wrong(kOp, q_missing ? "q_doc" : "k_doc",
                 std::string("be given together with ") + (q_missing ? "'k_doc'" : "'q_doc'"),
                 "None");
  }
  if (!a.q_doc.present()) return Status();
  const DType dtype = a.q_doc.dtype;
  if (dtype != DType::kInt32 && dtype != DType::kInt64) {
    return WrongType(kOp, "q_doc", "int32 or int64", dtype);
  }
  if (a.k_doc.dtype != dtype) return WrongType(kOp, "k_doc", Name(dtype), a.k_doc.dtype);
  const int64_t q_shape[2] = {a.q.dim(0), a.q.dim(2)};
  const int64_t k_shape[2] = {a.k.dim(0), a.k.dim(2)};
  KPT_RETURN_IF_ERROR(CheckShape(kOp, "q_doc", a.q_doc, q_shape, 2));
  return CheckShape(kOp, "k_doc", a.k_doc, k_shape, 2);
}

Status CheckOptions(const AttentionForwardArgs& a) {
  const int64_t heads[2] = {a.q.dim(0), a.q.dim(1)};
  if (a.alibi_slopes.present()) {
    if (a.alibi_slopes.dtype != DType::kFloat32) {
      return WrongType(kOp, "alibi_slopes", "float32", a.alibi_slopes.dtype);
    }
    const bool per_batch = a.alibi_slopes.rank == 2;
    KPT_RETURN_IF_ERROR(CheckShape(kOp, "alibi_slopes", a.alibi_slopes,
                                   per_batch ? heads : heads + 1, per_batch ? 2 : 1));
  }
  if (a.sinks.present()) {
    if (a.sinks.dtype != DType::kFloat32) return WrongType(kOp, "sinks", "float32", a.sinks.dtype);
    KPT_RETURN_IF_ERROR(CheckShape(kOp, "sinks", a.sinks, heads + 1, 1));
  }
  KPT_RETURN_IF_ERROR(CheckDocuments(a));
  if (!(a.softcap >= 0.0f) || std::isinf(a.softcap)) {
    return Wrong(kOp, "softcap", "be finite and not negative", std::to_string(a.softcap));
  }
  if (a.scale.has_value() && !std::isfinite(*a.scale)) {
    return Wrong(kOp, "scale", "be finite", std::to_string(*a.scale));
  }
  if (a.window_left < -1) {
    return Wrong(kOp, "window_left", "be -1 (no limit) or more", std::to_string(a.window_left));
  }
  if (a.window_right < -1) {
    return Wrong(kOp, "window_right", "be -1 (no limit) or more", std::to_string(a.window_right));
  }
  if (a.prefix_len < 0) {
    return Wrong(kOp, "prefix_len", "not be negative", std::to_string(a.prefix_len));
  }
  return Status();
}

// Results are written while inputs are still read.
Status CheckMemory(const AttentionForwardArgs& a) {
  const struct {
    const char* name;
    const TensorView& view;
  } inputs[] = {{"q", a.q},
                {"k", a.k},
                {"v", a.v},
                {"mask", a.mask},
                {"alibi_slopes", a.alibi_slopes},
                {"sinks", a.sinks},
                {"q_doc", a.q_doc},
                {"k_doc", a.k_doc}};
  for (const auto& input : inputs) {
    KPT_RETURN_IF_ERROR(CheckOverlap(kOp, "out", a.out, input.name, input.view, false));
    KPT_RETURN_IF_ERROR(CheckOverlap(kOp, "lse", a.lse, input.name, input.view, false));
  }
  KPT_RETURN_IF_ERROR(CheckOverlap(kOp, "out", a.out, "lse", a.lse, false));
  KPT_RETURN_IF_ERROR(CheckWritesOnce(kOp, "out", a.out));
  return CheckWritesOnce(kOp, "lse", a.lse);
}

HeadStrides StridesOf(const TensorView& t) { return {t.strides[0], t.strides[1], t.strides[2]}; }

// A limit beyond every distance is no limit; this also keeps sums with positions in range.
int64_t Window(int64_t window, const AttentionForwardArgs& a) {
  return window > a.q.dim(2) + a.k.dim(2) ? -1 : window;
}

FlashProblem Resolve(const AttentionForwardArgs& a) {
  FlashProblem p{};
  p.q = a.q.data;
  p.k = a.k.data;
  p.v = a.v.data;
  p.out = a.out.mutable_data();
  p.lse = a.lse.as_mutable<float>();
  p.q_stride = StridesOf(a.q);
  p.k_stride = StridesOf(a.k);
  p.v_stride = StridesOf(a.v);
  p.out_stride = StridesOf(a.out);
  p.lse_stride = StridesOf(a.lse);
  p.dtype = a.q.dtype;
  p.batch = a.q.dim(0);
  p.heads_q = a.q.dim(1);
  p.heads_kv = a.k.dim(1);
  p.seqlen_q = a.q.dim(2);
  p.seqlen_k = a.k.dim(2);
  p.dim_qk = a.q.dim(3);
  p.dim_v = a.v.dim(3);
  p.scale = a.scale.has_value() ? *a.scale : 1.0f / std::sqrt(static_cast<float>(p.dim_qk));
  p.softcap = a.softcap;
  p.is_causal = a.is_causal;
  p.window_left = Window(a.window_left, a);
  p.window_right = Window(a.window_right, a);
  p.prefix_len = a.prefix_len < p.seqlen_k ? a.prefix_len : p.seqlen_k;
  if (a.mask.present()) {
    // Dimension i of the mask expanded to four; dimensions that it lacks are in front.
    const auto stride = [&](int i) -> int64_t {
      const int at = i - (4 - a.mask.rank);
      return at < 0 || a.mask.dim(at) == 1 ? 0 : a.mask.stride(at);
    };
    p.mask = a.mask.data;
    p.mask_dtype = a.mask.dtype;
    p.mask_stride = {stride(0), stride(1), stride(2)};
    p.mask_key_stride = stride(3);
  }
  if (a.alibi_slopes.present()) {
    p.alibi = a.alibi_slopes.as<float>();
    p.alibi_batch_stride = a.alibi_slopes.rank == 2 ? a.alibi_slopes.stride(0) : 0;
    p.alibi_head_stride = a.alibi_slopes.stride(-1);
  }
  if (a.sinks.present()) {
    p.sinks = a.sinks.as<float>();
    p.sinks_stride = a.sinks.stride(0);
  }
  if (a.q_doc.present()) {
    p.q_doc = a.q_doc.data;
    p.k_doc = a.k_doc.data;
    p.doc_dtype = a.q_doc.dtype;
    p.q_doc_batch = a.q_doc.stride(0);
    p.q_doc_row = a.q_doc.stride(1);
    p.k_doc_batch = a.k_doc.stride(0);
    p.k_doc_row = a.k_doc.stride(1);
  }
  return p;
}

bool FitsKernels(const LaunchContext&, const FlashProblem& p) {
  return p.dim_qk >= 1 && p.dim_qk <= kFlashMaxDim && p.dim_v >= 1 && p.dim_v <= kFlashMaxDim;
}

template <FlashKernel (*kKernel)()>
Status RunKernel(const LaunchContext& ctx, const FlashProblem& p) {
  static const FlashKernel kernel = kKernel();
  return RunFlash(ctx, kernel, p);
}

#if defined(KPT_HAVE_X86_VARIANTS)
bool FitsBFloat16Kernels(const LaunchContext& ctx, const FlashProblem& p) {
  return p.dtype == DType::kBFloat16 && FitsKernels(ctx, p);
}
#endif

constexpr Variant<FlashProblem> kVariants[] = {
#if defined(KPT_HAVE_X86_VARIANTS)
    {"amx", Isa::kAmx, FitsBFloat16Kernels, RunKernel<amx::BFloat16FlashKernel>},
    {"avx512_bf16", Isa::kAvx512Bf16, FitsBFloat16Kernels,
     RunKernel<avx512_bf16::BFloat16FlashKernel>},
    {"avx512", Isa::kAvx512, FitsKernels, RunKernel<avx512::FloatFlashKernel>},
    {"avx2", Isa::kAvx2, FitsKernels, RunKernel<avx2::FloatFlashKernel>},
#endif
    {"baseline", Isa::kBaseline, FitsKernels, RunKernel<baseline::FloatFlashKernel>},
};

}  // namespace

Status AttentionForward(const LaunchContext& ctx, const AttentionForwardArgs& args) {
  KPT_RETURN_IF_ERROR(CheckTensors(args));
  KPT_RETURN_IF_ERROR(CheckMask(args));
  KPT_RETURN_IF_ERROR(CheckOptions(args));
  KPT_RETURN_IF_ERROR(CheckMemory(args));
  return RunFirst(kOp, kVariants, ctx, Resolve(args));
}

std::vector<VariantInfo> AttentionForwardVariants() { return ListVariants(kVariants); }

}  // namespace kpt::cpu

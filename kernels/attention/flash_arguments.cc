#include "kernels/attention/flash_arguments.h"

#include <cmath>
#include <string>

#include "kernels/attention/attention_checks.h"
#include "kernels/base/row_checks.h"

namespace kpt::KPT_BACKEND {
namespace {

Status CheckMask(const char* op, const TensorView& q, const TensorView& k, const TensorView& mask) {
  if (!mask.present()) return Status();
  if (mask.dtype != DType::kBool && mask.dtype != DType::kFloat32 && mask.dtype != q.dtype) {
    return WrongType(op, "mask", std::string("bool, float32 or ") + Name(q.dtype), mask.dtype);
  }
  TensorView full;
  full.rank = 4;
  for (int i = 0; i < 3; ++i) full.shape[i] = q.dim(i);
  full.shape[3] = k.dim(2);
  bool fits = mask.rank <= 4;
  for (int i = 1; i <= mask.rank && fits; ++i) {
    fits = mask.dim(-i) == full.dim(-i) || mask.dim(-i) == 1;
  }
  return fits ? Status() : Wrong(op, "mask", "broadcast to " + ShapeText(full), ShapeText(mask));
}

// A limit beyond every distance is no limit; this also keeps sums with positions in range.
int64_t Window(int64_t window, const FlashProblem& p) {
  return window > p.seqlen_q + p.seqlen_k ? -1 : window;
}

}  // namespace

Status CheckDtypes(const char* op, const TensorView& q, const TensorView& k, const TensorView& v) {
  const DType dtype = q.dtype;
  if (dtype != DType::kFloat32 && dtype != DType::kFloat16 && dtype != DType::kBFloat16) {
    return WrongType(op, "q", "float32, float16 or bfloat16", dtype);
  }
  if (k.dtype != dtype) return WrongType(op, "k", Name(dtype), k.dtype);
  if (v.dtype != dtype) return WrongType(op, "v", Name(dtype), v.dtype);
  return Status();
}

Status CheckHeads(const char* op, int64_t heads_q, int64_t heads_kv) {
  if (heads_q == 0 || (heads_kv != 0 && heads_q % heads_kv == 0)) return Status();
  return Wrong(op, "q", "have a multiple of k's " + std::to_string(heads_kv) + " heads",
               std::to_string(heads_q));
}

Status CheckOptions(const char* op, int64_t batch, int64_t heads, const AttentionOptions& o) {
  const int64_t shape[2] = {batch, heads};
  if (o.alibi_slopes.present()) {
    if (o.alibi_slopes.dtype != DType::kFloat32) {
      return WrongType(op, "alibi_slopes", "float32", o.alibi_slopes.dtype);
    }
    const bool per_batch = o.alibi_slopes.rank == 2;
    KPT_RETURN_IF_ERROR(CheckShape(op, "alibi_slopes", o.alibi_slopes,
                                   per_batch ? shape : shape + 1, per_batch ? 2 : 1));
  }
  if (o.sinks.present()) {
    if (o.sinks.dtype != DType::kFloat32) return WrongType(op, "sinks", "float32", o.sinks.dtype);
    KPT_RETURN_IF_ERROR(CheckShape(op, "sinks", o.sinks, shape + 1, 1));
  }
  if (!(o.softcap >= 0.0f) || std::isinf(o.softcap)) {
    return Wrong(op, "softcap", "be finite and not negative", std::to_string(o.softcap));
  }
  if (o.scale.has_value() && !std::isfinite(*o.scale)) {
    return Wrong(op, "scale", "be finite", std::to_string(*o.scale));
  }
  if (o.window_left < -1) {
    return Wrong(op, "window_left", "be -1 (no limit) or more", std::to_string(o.window_left));
  }
  if (o.window_right < -1) {
    return Wrong(op, "window_right", "be -1 (no limit) or more", std::to_string(o.window_right));
  }
  if (o.prefix_len < 0) {
    return Wrong(op, "prefix_len", "not be negative", std::to_string(o.prefix_len));
  }
  return Status();
}

Status CheckDocuments(const char* op, const AttentionOptions& o, const int64_t* q_shape,
                      const int64_t* k_shape, int rank) {
  if (o.q_doc.present() != o.k_doc.present()) {
    const bool q_missing = !o.q_doc.present();
    return Wrong(op, q_missing ? "q_doc" : "k_doc",
                 std::string("be given together with ") + (q_missing ? "'k_doc'" : "'q_doc'"),
                 "None");
  }
  if (!o.q_doc.present()) return Status();
  const DType dtype = o.q_doc.dtype;
  if (dtype != DType::kInt32 && dtype != DType::kInt64) {
    return WrongType(op, "q_doc", "int32 or int64", dtype);
  }
  if (o.k_doc.dtype != dtype) return WrongType(op, "k_doc", Name(dtype), o.k_doc.dtype);
  KPT_RETURN_IF_ERROR(CheckShape(op, "q_doc", o.q_doc, q_shape, rank));
  return CheckShape(op, "k_doc", o.k_doc, k_shape, rank);
}

Status CheckBatch(const char* op, const TensorView& q, const TensorView& k, const TensorView& v,
                  const AttentionOptions& o) {
  KPT_RETURN_IF_ERROR(CheckRank(op, "q", q, 4));
  KPT_RETURN_IF_ERROR(CheckRank(op, "k", k, 4));
  KPT_RETURN_IF_ERROR(CheckRank(op, "v", v, 4));
  KPT_RETURN_IF_ERROR(CheckDtypes(op, q, k, v));
  const int64_t k_shape[4] = {q.dim(0), k.dim(1), k.dim(2), q.dim(3)};
  KPT_RETURN_IF_ERROR(CheckShape(op, "k", k, k_shape, 4));
  const int64_t v_shape[4] = {q.dim(0), k.dim(1), k.dim(2), v.dim(3)};
  KPT_RETURN_IF_ERROR(CheckShape(op, "v", v, v_shape, 4));
  KPT_RETURN_IF_ERROR(CheckHeads(op, q.dim(1), k.dim(1)));
  KPT_RETURN_IF_ERROR(CheckDense(op, "q", q));
  KPT_RETURN_IF_ERROR(CheckDense(op, "k", k));
  KPT_RETURN_IF_ERROR(CheckDense(op, "v", v));
  KPT_RETURN_IF_ERROR(CheckMask(op, q, k, o.mask));
  KPT_RETURN_IF_ERROR(CheckOptions(op, q.dim(0), q.dim(1), o));
  const int64_t q_docs[2] = {q.dim(0), q.dim(2)};
  const int64_t k_docs[2] = {k.dim(0), k.dim(2)};
  return CheckDocuments(op, o, q_docs, k_docs, 2);
}

Status CheckOutput(const char* op, const char* arg, const MutableTensorView& out,
                   const TensorView& q, const TensorView& k, const TensorView& v,
                   const AttentionOptions& o) {
  const struct {
    const char* name;
    const TensorView& view;
  } inputs[] = {{"q", q},
                {"k", k},
                {"v", v},
                {"mask", o.mask},
                {"alibi_slopes", o.alibi_slopes},
                {"sinks", o.sinks},
                {"q_doc", o.q_doc},
                {"k_doc", o.k_doc}};
  for (const auto& input : inputs) {
    KPT_RETURN_IF_ERROR(CheckOverlap(op, arg, out, input.name, input.view, false));
  }
  return CheckWritesOnce(op, arg, out);
}

HeadStrides StridesOf(const TensorView& t) { return {t.strides[0], t.strides[1], t.strides[2]}; }

void SetOptions(const AttentionOptions& o, FlashProblem* problem) {
  FlashProblem& p = *problem;
  p.scale = o.scale.has_value() ? *o.scale : 1.0f / std::sqrt(static_cast<float>(p.dim_qk));
  p.softcap = o.softcap;
  p.is_causal = o.is_causal;
  p.window_left = Window(o.window_left, p);
  p.window_right = Window(o.window_right, p);
  p.prefix_len = o.prefix_len < p.seqlen_k ? o.prefix_len : p.seqlen_k;
  if (o.alibi_slopes.present()) {
    p.alibi = o.alibi_slopes.as<float>();
    p.alibi_batch_stride = o.alibi_slopes.rank == 2 ? o.alibi_slopes.stride(0) : 0;
    p.alibi_head_stride = o.alibi_slopes.stride(-1);
  }
  if (o.sinks.present()) {
    p.sinks = o.sinks.as<float>();
    p.sinks_stride = o.sinks.stride(0);
  }
}

FlashProblem ResolveBatch(const TensorView& q, const TensorView& k, const TensorView& v,
                          const AttentionOptions& o) {
  FlashProblem p{};
  p.q = q.data;
  p.k = k.data;
  p.v = v.data;
  p.q_stride = StridesOf(q);
  p.k_stride = StridesOf(k);
  p.v_stride = StridesOf(v);
  p.dtype = q.dtype;
  p.batch = q.dim(0);
  p.heads_q = q.dim(1);
  p.heads_kv = k.dim(1);
  p.seqlen_q = q.dim(2);
  p.seqlen_k = k.dim(2);
  p.dim_qk = q.dim(3);
  p.dim_v = v.dim(3);
  SetOptions(o, &p);
  if (o.mask.present()) {
    // Dimension i of the mask expanded to four; dimensions that it lacks are in front.
    const auto stride = [&](int i) -> int64_t {
      const int at = i - (4 - o.mask.rank);
      return at < 0 || o.mask.dim(at) == 1 ? 0 : o.mask.stride(at);
    };
    p.mask = o.mask.data;
    p.mask_dtype = o.mask.dtype;
    p.mask_stride = {stride(0), stride(1), stride(2)};
    p.mask_key_stride = stride(3);
  }
  if (o.q_doc.present()) {
    p.q_doc = o.q_doc.data;
    p.k_doc = o.k_doc.data;
    p.doc_dtype = o.q_doc.dtype;
    p.q_doc_batch = o.q_doc.stride(0);
    p.q_doc_row = o.q_doc.stride(1);
    p.k_doc_batch = o.k_doc.stride(0);
    p.k_doc_row = o.k_doc.stride(1);
  }
  return p;
}

}  // namespace kpt::KPT_BACKEND

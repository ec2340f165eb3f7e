// The arguments of attention_decode and attention_paged: what is checked of them on every backend,
// and the problem that they describe.
#ifndef KPT_KERNELS_ATTENTION_DECODE_ARGUMENTS_H_
#define KPT_KERNELS_ATTENTION_DECODE_ARGUMENTS_H_

#include <cmath>
#include <string>

#include "kernels/attention/attention_decode.h"
#include "kernels/attention/cache_checks.h"
#include "kernels/attention/decode_problem.h"

namespace kpt::KPT_BACKEND {

// What the operators call k and v.
inline const char* KName(const AttentionDecodeArgs& a) {
  return a.block_table.present() ? "k_pages" : "k_cache";
}
inline const char* VName(const AttentionDecodeArgs& a) {
  return a.block_table.present() ? "v_pages" : "v_cache";
}

inline Status CheckDecodeTypes(const char* op, const AttentionDecodeArgs& a) {
  const DType dtype = a.q.dtype;
  if (dtype != DType::kFloat32 && dtype != DType::kFloat16 && dtype != DType::kBFloat16) {
    return WrongType(op, "q", "float32, float16 or bfloat16", dtype);
  }
  KPT_RETURN_IF_ERROR(CheckCacheTypes(op, dtype, KName(a), a.k, VName(a), a.v));
  if (a.out.dtype != dtype) return WrongType(op, "out", Name(dtype), a.out.dtype);
  KPT_RETURN_IF_ERROR(CheckLensType(op, a.seq_lens));
  const auto check_floats = [op](const char* name, const TensorView& view) {
    return !view.present() || view.dtype == DType::kFloat32
               ? Status()
               : WrongType(op, name, "float32", view.dtype);
  };
  KPT_RETURN_IF_ERROR(check_floats("alibi_slopes", a.alibi_slopes));
  return check_floats("sinks", a.sinks);
}

inline Status CheckDecodeShapes(const char* op, const AttentionDecodeArgs& a) {
  KPT_RETURN_IF_ERROR(CheckRank(op, "q", a.q, 4));
  KPT_RETURN_IF_ERROR(CheckRank(op, KName(a), a.k, 4));
  KPT_RETURN_IF_ERROR(CheckRank(op, VName(a), a.v, 4));
  const int64_t heads_q = a.q.dim(1), heads_kv = a.k.dim(1);
  const bool paged = a.block_table.present();
  const int64_t k_shape[4] = {paged ? a.k.dim(0) : a.q.dim(0), heads_kv, a.k.dim(2), a.q.dim(3)};
  KPT_RETURN_IF_ERROR(CheckShape(op, KName(a), a.k, k_shape, 4));
  const int64_t v_shape[4] = {k_shape[0], heads_kv, a.k.dim(2), a.v.dim(3)};
  KPT_RETURN_IF_ERROR(CheckShape(op, VName(a), a.v, v_shape, 4));
  const int64_t out_shape[4] = {a.q.dim(0), heads_q, a.q.dim(2), a.v.dim(3)};
  KPT_RETURN_IF_ERROR(CheckShape(op, "out", a.out, out_shape, 4));
  KPT_RETURN_IF_ERROR(CheckShape(op, "seq_lens", a.seq_lens, out_shape, 1));
  if (a.q.dim(2) > kDecodeMaxQueries) {
    return Wrong(op, "q", "have at most 8 query tokens", std::to_string(a.q.dim(2)));
  }
  if (heads_q != 0 && (heads_kv == 0 || heads_q % heads_kv != 0)) {
    return Wrong(
        op, "q",
        std::string("have a multiple of ") + KName(a) + "'s " + std::to_string(heads_kv) + " heads",
        std::to_string(heads_q));
  }
  if (a.alibi_slopes.present()) {
    KPT_RETURN_IF_ERROR(CheckShape(op, "alibi_slopes", a.alibi_slopes, out_shape + 1, 1));
  }
  if (a.sinks.present()) KPT_RETURN_IF_ERROR(CheckShape(op, "sinks", a.sinks, out_shape + 1, 1));
  KPT_RETURN_IF_ERROR(CheckCacheScale(op, "k_scale", a.k_scale, a.k));
  KPT_RETURN_IF_ERROR(CheckCacheScale(op, "v_scale", a.v_scale, a.v));
  KPT_RETURN_IF_ERROR(CheckRotations(op, a.cos, a.sin, "q", a.q, a.interleaved));
  KPT_RETURN_IF_ERROR(CheckDense(op, "q", a.q));
  KPT_RETURN_IF_ERROR(CheckDense(op, KName(a), a.k));
  KPT_RETURN_IF_ERROR(CheckDense(op, VName(a), a.v));
  return CheckDense(op, "out", a.out);
}

inline Status CheckDecodeOptions(const char* op, const AttentionDecodeArgs& a) {
  if (!(a.softcap >= 0.0f) || std::isinf(a.softcap)) {
    return Wrong(op, "softcap", "be finite and not negative", std::to_string(a.softcap));
  }
  if (a.scale.has_value() && !std::isfinite(*a.scale)) {
    return Wrong(op, "scale", "be finite", std::to_string(*a.scale));
  }
  if (a.window_left < -1) {
    return Wrong(op, "window_left", "be -1 (no limit) or more", std::to_string(a.window_left));
  }
  return Status();
}

inline Status CheckDecodeMemory(const char* op, const AttentionDecodeArgs& a) {
  const struct {
    const char* name;
    const TensorView& view;
  } inputs[] = {{"q", a.q},
                {KName(a), a.k},
                {VName(a), a.v},
                {"seq_lens", a.seq_lens},
                {"k_scale", a.k_scale},
                {"v_scale", a.v_scale},
                {"alibi_slopes", a.alibi_slopes},
                {"sinks", a.sinks},
                {"block_table", a.block_table},
                {"cos", a.cos},
                {"sin", a.sin}};
  for (const auto& input : inputs) {
    KPT_RETURN_IF_ERROR(CheckOverlap(op, "out", a.out, input.name, input.view, false));
  }
  return CheckWritesOnce(op, "out", a.out);
}

// All but lengths and pages, which are data.
inline Status CheckDecode(const char* op, const AttentionDecodeArgs& a) {
  KPT_RETURN_IF_ERROR(CheckDecodeTypes(op, a));
  KPT_RETURN_IF_ERROR(CheckDecodeShapes(op, a));
  KPT_RETURN_IF_ERROR(CheckDecodeOptions(op, a));
  return CheckDecodeMemory(op, a);
}

// What attention_paged checks before.
inline Status CheckPaged(const char* op, const AttentionDecodeArgs& a) {
  KPT_RETURN_IF_ERROR(CheckRank(op, "q", a.q, 4));
  return CheckBlockTable(op, a.block_table, a.q.dim(0));
}

inline DecodeCache CacheOf(const TensorView& data, const TensorView& scale) {
  DecodeCache cache{data.data, {data.strides[0], data.strides[1], data.strides[2]}, nullptr, {}};
  if (scale.present()) {
    cache.scale = scale.as<float>();
    cache.scale_stride = ScaleStrides(scale);
  }
  return cache;
}

inline DecodeProblem ResolveDecode(const AttentionDecodeArgs& a) {
  DecodeProblem p{};
  p.q = a.q.data;
  p.out = a.out.mutable_data();
  p.q_stride = {a.q.strides[0], a.q.strides[1], a.q.strides[2]};
  p.out_stride = {a.out.strides[0], a.out.strides[1], a.out.strides[2]};
  p.dtype = a.q.dtype;
  p.cache_dtype = a.k.dtype;
  p.k = CacheOf(a.k, a.k_scale);
  p.v = CacheOf(a.v, a.v_scale);
  ResolvePlaces(a.seq_lens, a.block_table, a.k, &p);
  p.rotation = ResolveRotation(a.cos, a.sin, a.q.dim(3), a.interleaved);
  p.batch = a.q.dim(0);
  p.heads_q = a.q.dim(1);
  p.heads_kv = a.k.dim(1);
  p.seqlen_q = a.q.dim(2);
  p.dim_qk = a.q.dim(3);
  p.dim_v = a.v.dim(3);
  p.scale = a.scale.has_value() ? *a.scale : 1.0f / std::sqrt(static_cast<float>(p.dim_qk));
  p.softcap = a.softcap;
  // A limit beyond every distance is no limit.
  p.window_left = a.window_left >= p.capacity ? -1 : a.window_left;
  if (a.alibi_slopes.present()) {
    p.alibi = a.alibi_slopes.as<float>();
    p.alibi_stride = a.alibi_slopes.stride(0);
  }
  if (a.sinks.present()) {
    p.sinks = a.sinks.as<float>();
    p.sinks_stride = a.sinks.stride(0);
  }
  return p;
}

}  // namespace kpt::KPT_BACKEND

#endif  // KPT_KERNELS_ATTENTION_DECODE_ARGUMENTS_H_

// Checks of what the operators on a key-value cache share, and its resolved form.
#ifndef KPT_KERNELS_ATTENTION_CACHE_CHECKS_H_
#define KPT_KERNELS_ATTENTION_CACHE_CHECKS_H_

#include <string>

#include "kernels/attention/attention_checks.h"
#include "kernels/attention/cache_places.h"
#include "kernels/attention/flash_problem.h"
#include "kernels/base/rotation_checks.h"

namespace kpt {

inline Status CheckLensType(const char* op, const TensorView& seq_lens) {
  if (seq_lens.dtype == DType::kInt32 || seq_lens.dtype == DType::kInt64) return Status();
  return WrongType(op, "seq_lens", "int32 or int64", seq_lens.dtype);
}

inline Status CheckBlockTable(const char* op, const TensorView& table, int64_t batch) {
  KPT_RETURN_IF_ERROR(CheckRank(op, "block_table", table, 2));
  if (table.dtype != DType::kInt32) return WrongType(op, "block_table", "int32", table.dtype);
  if (table.dim(0) == batch) return Status();
  return Wrong(op, "block_table", "have a row for each of " + std::to_string(batch),
               ShapeText(table));
}

// One byte a number, or the dtype of what is computed with.
inline Status CheckCacheTypes(const char* op, DType dtype, const char* k_name, const TensorView& k,
                              const char* v_name, const TensorView& v) {
  if (k.dtype != dtype && k.dtype != DType::kInt8 && k.dtype != DType::kFloat8E4M3FN) {
    return WrongType(op, k_name, std::string(Name(dtype)) + ", int8 or float8_e4m3fn", k.dtype);
  }
  return v.dtype == k.dtype ? Status() : WrongType(op, v_name, Name(k.dtype), v.dtype);
}

// A float32 tensor that broadcasts to the first three dimensions of `cache`.
inline Status CheckCacheScale(const char* op, const char* name, const TensorView& scale,
                              const TensorView& cache) {
  if (!scale.present()) return Status();
  if (scale.dtype != DType::kFloat32) return WrongType(op, name, "float32", scale.dtype);
  bool fits = scale.rank <= 3;
  for (int i = 1; i <= scale.rank && fits; ++i) {
    fits = scale.dim(-i) == cache.shape[3 - i] || scale.dim(-i) == 1;
  }
  TensorView full;
  full.rank = 3;
  for (int i = 0; i < 3; ++i) full.shape[i] = cache.shape[i];
  return fits ? Status() : Wrong(op, name, "broadcast to " + ShapeText(full), ShapeText(scale));
}

// Tables for the positions of `rows`, the argument `name`; both or none.
inline Status CheckRotations(const char* op, const TensorView& cos, const TensorView& sin,
                             const char* name, const TensorView& rows, bool interleaved) {
  if (cos.present() != sin.present()) {
    return Wrong(op, cos.present() ? "sin" : "cos", "be given with the other one", "None");
  }
  if (!cos.present()) return Status();
  int64_t pairs = 0;
  KPT_RETURN_IF_ERROR(CheckRotation(op, "cos", cos, name, rows, interleaved, &pairs));
  KPT_RETURN_IF_ERROR(CheckRotation(op, "sin", sin, name, rows, interleaved, &pairs));
  return CheckLike(op, "sin", sin, "cos", cos);
}

// The strides of a checked scale, 0 where it is broadcast.
inline HeadStrides ScaleStrides(const TensorView& scale) {
  const auto stride = [&](int i) -> int64_t {
    const int at = i - (3 - scale.rank);
    return at < 0 || scale.dim(at) == 1 ? 0 : scale.stride(at);
  };
  return {stride(0), stride(1), stride(2)};
}

inline void ResolvePlaces(const TensorView& seq_lens, const TensorView& block_table,
                          const TensorView& cache, CachePlaces* p) {
  p->seq_lens = seq_lens.data;
  p->seq_lens_dtype = seq_lens.dtype;
  p->seq_lens_stride = seq_lens.strides[0];
  p->capacity = cache.dim(2);
  if (!block_table.present()) return;
  p->block_table = block_table.as<int32_t>();
  p->table_batch = block_table.stride(0);
  p->table_page = block_table.stride(1);
  p->page_size = cache.dim(2);
  p->num_pages = cache.dim(0);
  p->capacity = p->page_size * block_table.dim(1);
}

inline Rotation ResolveRotation(const TensorView& cos, const TensorView& sin, int64_t head_dim,
                                bool interleaved) {
  Rotation r{};
  if (!cos.present()) return r;
  const auto batch_stride = [](const TensorView& t) {
    return t.rank == 3 && t.shape[0] > 1 ? t.strides[0] : 0;
  };
  r.cos = cos.data;
  r.sin = sin.data;
  r.dtype = cos.dtype;
  r.cos_batch = batch_stride(cos);
  r.sin_batch = batch_stride(sin);
  r.cos_row = cos.stride(-2);
  r.sin_row = sin.stride(-2);
  const int64_t width = cos.dim(-1);
  r.pairs = 2 * width <= head_dim ? width : width / 2;
  r.interleaved = interleaved;
  return r;
}

// Lengths and pages address memory: `least` to the capacity, and pages that exist from token
// seq_len - last on (0 <= last: all of them when that is the capacity or more).
inline Status CheckPlaces(const char* op, const CachePlaces& p, int64_t batch, int64_t least,
                          int64_t last) {
  for (int64_t b = 0; b < batch; ++b) {
    const int64_t n = SeqLen(p, b);
    if (n < least || n > p.capacity) {
      return Wrong(
          op, "seq_lens",
          "be from " + std::to_string(least) + " to the cache's " + std::to_string(p.capacity),
          std::to_string(n) + " at " + std::to_string(b));
    }
    if (p.block_table == nullptr || n == 0) continue;
    for (int64_t i = last < n ? (n - last) / p.page_size : 0; i * p.page_size < n; ++i) {
      const int64_t page = p.block_table[b * p.table_batch + i * p.table_page];
      if (page >= 0 && page < p.num_pages) continue;
      return Wrong(
          op, "block_table", "name pages from 0 to " + std::to_string(p.num_pages - 1),
          std::to_string(page) + " at [" + std::to_string(b) + ", " + std::to_string(i) + "]");
    }
  }
  return Status();
}

}  // namespace kpt

#endif  // KPT_KERNELS_ATTENTION_CACHE_CHECKS_H_

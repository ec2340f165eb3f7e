// kv_append, kv_append_quantize: argument checks, variant table.
#include "kernels/attention/kv_append.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "kernels/attention/cache_checks.h"
#include "kernels/attention/cpu/append_rows.h"
#include "kernels/base/parallel_for.h"

namespace kpt::cpu {
namespace {

// A cache or scale and what it becomes.
struct Change {
  const char* name;
  const TensorView& before;
  const MutableTensorView& after;
};

Status CheckTypes(const char* op, const KvAppendArgs& a) {
  const DType dtype = a.k.dtype;
  if (dtype != DType::kFloat32 && dtype != DType::kFloat16 && dtype != DType::kBFloat16) {
    return WrongType(op, "k", "float32, float16 or bfloat16", dtype);
  }
  if (a.v.dtype != dtype) return WrongType(op, "v", Name(dtype), a.v.dtype);
  KPT_RETURN_IF_ERROR(CheckCacheTypes(op, dtype, "k_cache", a.k_cache, "v_cache", a.v_cache));
  return CheckLensType(op, a.seq_lens);
}

Status CheckShapes(const char* op, const KvAppendArgs& a) {
  KPT_RETURN_IF_ERROR(CheckRank(op, "k", a.k, 4));
  KPT_RETURN_IF_ERROR(CheckRank(op, "k_cache", a.k_cache, 4));
  KPT_RETURN_IF_ERROR(CheckRank(op, "v_cache", a.v_cache, 4));
  const int64_t v_shape[4] = {a.k.dim(0), a.k.dim(1), a.k.dim(2), a.v_cache.dim(3)};
  KPT_RETURN_IF_ERROR(CheckShape(op, "v", a.v, v_shape, 4));
  const int64_t first = a.block_table.present() ? a.k_cache.dim(0) : a.k.dim(0);
  const int64_t k_cache[4] = {first, a.k.dim(1), a.k_cache.dim(2), a.k.dim(3)};
  KPT_RETURN_IF_ERROR(CheckShape(op, "k_cache", a.k_cache, k_cache, 4));
  const int64_t v_cache[4] = {first, a.k.dim(1), a.k_cache.dim(2), a.v_cache.dim(3)};
  KPT_RETURN_IF_ERROR(CheckShape(op, "v_cache", a.v_cache, v_cache, 4));
  KPT_RETURN_IF_ERROR(CheckShape(op, "seq_lens", a.seq_lens, a.k.shape, 1));
  KPT_RETURN_IF_ERROR(CheckRotations(op, a.cos, a.sin, "k", a.k, a.interleaved));
  KPT_RETURN_IF_ERROR(CheckDense(op, "k", a.k));
  KPT_RETURN_IF_ERROR(CheckDense(op, "v", a.v));
  KPT_RETURN_IF_ERROR(CheckDense(op, "k_cache", a.k_cache));
  return CheckDense(op, "v_cache", a.v_cache);
}

// Whether `after` may be written: it is `before`, or lies apart from it.
Status CheckChange(const char* op, const Change& c) {
  KPT_RETURN_IF_ERROR(CheckShape(op, c.name, c.after, c.before.shape, c.before.rank));
  if (c.after.dtype != c.before.dtype) {
    return WrongType(op, c.name, Name(c.before.dtype), c.after.dtype);
  }
  if (c.after.rank == 4) KPT_RETURN_IF_ERROR(CheckDense(op, c.name, c.after));
  KPT_RETURN_IF_ERROR(CheckWritesOnce(op, c.name, c.after));
  return CheckOverlap(op, c.name, c.after, c.name, c.before, true);
}

Status CheckMemory(const char* op, const KvAppendArgs& a, const Change* changes, int count) {
  const struct {
    const char* name;
    const TensorView& view;
  } inputs[] = {{"k", a.k},
                {"v", a.v},
                {"seq_lens", a.seq_lens},
                {"cos", a.cos},
                {"sin", a.sin},
                {"block_table", a.block_table},
                {"k_scale", a.k_scale},
                {"v_scale", a.v_scale}};
  for (int i = 0; i < count; ++i) {
    const Change& c = changes[i];
    KPT_RETURN_IF_ERROR(CheckChange(op, c));
    for (const auto& input : inputs) {
      if (count == 4 && (&input.view == &a.k_scale || &input.view == &a.v_scale)) continue;
      KPT_RETURN_IF_ERROR(CheckOverlap(op, c.name, c.after, input.name, input.view, false));
    }
    for (int j = 0; j < count; ++j) {
      const Change& other = changes[j];
      if (j == i) continue;
      if (AreApart(c.after, other.before) && AreApart(c.after, other.after)) continue;
      return Status::InvalidArgument(Argument(op, c.name) + "overlaps '" + other.name +
                                     "' in memory");
    }
  }
  return Status();
}

// A page gets new tokens from one place only.
Status CheckPagesDiffer(const char* op, const AppendJob& job) {
  if (job.block_table == nullptr || job.tokens == 0) return Status();
  std::vector<int32_t> pages;
  for (int64_t b = 0; b < job.batch; ++b) {
    const int64_t n = SeqLen(job, b);
    for (int64_t i = (n - job.tokens) / job.page_size; i * job.page_size < n; ++i) {
      pages.push_back(job.block_table[b * job.table_batch + i * job.table_page]);
    }
  }
  std::sort(pages.begin(), pages.end());
  const auto twice = std::adjacent_find(pages.begin(), pages.end());
  return twice == pages.end() ? Status()
                              : Wrong(op, "block_table", "name each page once for new tokens",
                                      "page " + std::to_string(*twice) + " twice");
}

AppendSide Side(const TensorView& in, const MutableTensorView& cache, const TensorView& scale,
                const MutableTensorView& scale_out) {
  AppendSide side{};
  side.in = in.data;
  side.in_stride = {in.strides[0], in.strides[1], in.strides[2]};
  side.cache = cache.mutable_data();
  side.cache_stride = {cache.strides[0], cache.strides[1], cache.strides[2]};
  if (scale_out.present()) {
    side.scale_out = scale_out.as_mutable<float>();
    side.scale_stride = {scale_out.strides[0], scale_out.strides[1], scale_out.strides[2]};
  } else if (scale.present()) {
    side.scale = scale.as<float>();
    side.scale_stride = ScaleStrides(scale);
  }
  side.dim = in.dim(3);
  return side;
}

AppendJob Resolve(const KvAppendArgs& a) {
  AppendJob job{};
  ResolvePlaces(a.seq_lens, a.block_table, a.k_cache, &job);
  job.k = Side(a.k, a.out_k, a.k_scale, a.out_k_scale);
  job.v = Side(a.v, a.out_v, a.v_scale, a.out_v_scale);
  job.rotation = ResolveRotation(a.cos, a.sin, a.k.dim(3), a.interleaved);
  job.dtype = a.k.dtype;
  job.cache_dtype = a.k_cache.dtype;
  job.batch = a.k.dim(0);
  job.heads = a.k.dim(1);
  job.tokens = a.k.dim(2);
  return job;
}

// after = before, where it is elsewhere.
void CopyOver(const LaunchContext& ctx, const Change& c) {
  if (c.after.size() == 0 || SameElements(c.after, c.before)) return;
  const TensorView* const tensors[2] = {&c.before, &c.after};
  const RowPlan<2> plan = PlanRows(tensors);
  const int64_t size = ItemSize(c.after.dtype), cols = c.after.dim(-1);
  constexpr int64_t kGrainBytes = 256 * 1024;
  ParallelFor(ctx.num_threads, plan.rows, kGrainBytes / (cols * size + 1) + 1,
              [&](int64_t begin, int64_t end) {
                for (int64_t row = begin; row < end; ++row) {
                  int64_t at[2];
                  RowOffsets(plan, row, at);
                  const char* from = static_cast<const char*>(c.before.data) + at[0] * size;
                  char* to = static_cast<char*>(c.after.mutable_data()) + at[1] * size;
                  const int64_t from_step = c.before.stride(-1) * size;
                  const int64_t to_step = c.after.stride(-1) * size;
                  if (cols == 1 || (from_step == size && to_step == size)) {
                    std::memcpy(to, from, static_cast<size_t>(cols * size));
                    continue;
                  }
                  for (int64_t i = 0; i < cols; ++i) {
                    std::memcpy(to + i * to_step, from + i * from_step, static_cast<size_t>(size));
                  }
                }
              });
}

struct Append {
  AppendJob job;
  const Change* changes;
  int count;
};

bool Fits(const LaunchContext&, const Append& append) {
  return append.job.k.dim <= kFlashMaxDim && append.job.v.dim <= kFlashMaxDim;
}

template <AppendTokensFn kTokens>
Status RunTokens(const LaunchContext& ctx, const Append& append) {
  for (int i = 0; i < append.count; ++i) CopyOver(ctx, append.changes[i]);
  const AppendJob& job = append.job;
  // A parallel region costs about as much as this many elements take.
  constexpr int64_t kGrain = 16384;
  const int64_t elements = job.heads * (job.k.dim + job.v.dim);
  ParallelFor(ctx.num_threads, job.batch * job.tokens, kGrain / (elements + 1) + 1,
              [&](int64_t begin, int64_t end) { kTokens(job, begin, end); });
  return Status();
}

constexpr Variant<Append> kVariants[] = {
#if defined(KPT_HAVE_X86_VARIANTS)
    {"rows_avx512", Isa::kAvx512, Fits, RunTokens<avx512::AppendTokens>},
    {"rows_avx2", Isa::kAvx2, Fits, RunTokens<avx2::AppendTokens>},
#endif
    {"rows_baseline", Isa::kBaseline, Fits, RunTokens<baseline::AppendTokens>},
};

Status Run(const char* op, const LaunchContext& ctx, const KvAppendArgs& a, const Change* changes,
           int count) {
  KPT_RETURN_IF_ERROR(CheckMemory(op, a, changes, count));
  const AppendJob job = Resolve(a);
  KPT_RETURN_IF_ERROR(CheckPlaces(op, job, job.batch, job.tokens, job.tokens));
  KPT_RETURN_IF_ERROR(CheckPagesDiffer(op, job));
  return RunFirst(op, kVariants, ctx, Append{job, changes, count});
}

Status CheckTensors(const char* op, const KvAppendArgs& a) {
  KPT_RETURN_IF_ERROR(CheckTypes(op, a));
  KPT_RETURN_IF_ERROR(CheckShapes(op, a));
  if (!a.block_table.present()) return Status();
  return CheckBlockTable(op, a.block_table, a.k.dim(0));
}

}  // namespace

Status KvAppend(const LaunchContext& ctx, const KvAppendArgs& args) {
  constexpr char kOp[] = "kv_append";
  KPT_RETURN_IF_ERROR(CheckTensors(kOp, args));
  KPT_RETURN_IF_ERROR(CheckCacheScale(kOp, "k_scale", args.k_scale, args.k_cache));
  KPT_RETURN_IF_ERROR(CheckCacheScale(kOp, "v_scale", args.v_scale, args.v_cache));
  const Change changes[] = {{"k_cache", args.k_cache, args.out_k},
                            {"v_cache", args.v_cache, args.out_v}};
  return Run(kOp, ctx, args, changes, 2);
}

Status KvAppendQuantize(const LaunchContext& ctx, const KvAppendArgs& args) {
  constexpr char kOp[] = "kv_append_quantize";
  KPT_RETURN_IF_ERROR(CheckTensors(kOp, args));
  if (ItemSize(args.k_cache.dtype) != 1) {
    return WrongType(kOp, "k_cache", "int8 or float8_e4m3fn", args.k_cache.dtype);
  }
  for (const auto& [name, scale] :
       {std::pair<const char*, const TensorView&>{"k_scale", args.k_scale},
        {"v_scale", args.v_scale}}) {
    KPT_RETURN_IF_ERROR(CheckShape(kOp, name, scale, args.k_cache.shape, 3));
    if (scale.dtype != DType::kFloat32) return WrongType(kOp, name, "float32", scale.dtype);
  }
  const Change changes[] = {{"k_cache", args.k_cache, args.out_k},
                            {"v_cache", args.v_cache, args.out_v},
                            {"k_scale", args.k_scale, args.out_k_scale},
                            {"v_scale", args.v_scale, args.out_v_scale}};
  return Run(kOp, ctx, args, changes, 4);
}

std::vector<VariantInfo> KvAppendVariants() { return ListVariants(kVariants); }

}  // namespace kpt::cpu

#include "kernels/moe/moe_dispatch.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "kernels/base/buckets.h"
#include "kernels/moe/cpu/moe_checks.h"
#include "kernels/moe/cpu/moe_loops.h"

namespace kpt::cpu {
namespace {

constexpr const char* kOp = "moe_dispatch";

// With a capacity: -1 in place of the keys that find their expert full. All first choices are
// served before any second one.
void DropBeyond(int64_t capacity, int64_t experts, int64_t tokens, int64_t top_k,
                std::vector<int64_t>* keys) {
  std::vector<int64_t> taken(static_cast<size_t>(experts), 0);
  for (int64_t j = 0; j < top_k; ++j) {
    for (int64_t t = 0; t < tokens; ++t) {
      int64_t& key = (*keys)[t * top_k + j];
      if (taken[key]++ >= capacity) key = -1;
    }
  }
}

struct Job {
  const MoeDispatchArgs* args;
  std::vector<int64_t> keys;
};

// Nothing is computed: rows are copied as bytes.
Status Run(const LaunchContext& ctx, const Job& job) {
  const MoeDispatchArgs& a = *job.args;
  const int64_t top_k = a.indices.dim(1);
  const Buckets found = SortIntoBuckets(job.keys, a.num_experts);
  int64_t* row_of = a.row_of.as_mutable<int64_t>();
  const int64_t ld_row_of = a.row_of.stride(0);
  for (int64_t t = 0; t < a.x.dim(0); ++t) {
    for (int64_t j = 0; j < top_k; ++j) row_of[t * ld_row_of + j] = -1;
  }
  const int64_t kept = static_cast<int64_t>(found.items.size());
  for (int64_t r = 0; r < kept; ++r) {
    const int64_t item = found.items[r];
    row_of[item / top_k * ld_row_of + item % top_k] = r;
  }
  int32_t* offsets = a.offsets.as_mutable<int32_t>();
  for (int64_t e = 0; e < a.num_experts; ++e) {
    offsets[e] = static_cast<int32_t>(found.starts[e + 1]);
  }
  const int64_t item = ItemSize(a.x.dtype);
  const size_t bytes = static_cast<size_t>(a.x.dim(1) * item);
  if (bytes == 0) return Status();
  char* to = a.permuted.as_mutable<char>();
  const int64_t to_step = a.permuted.stride(0) * item;
  const int64_t from_step = a.x.stride(0) * item;
  ParallelFor(ctx.num_threads, a.permuted.dim(0), MoeGrain(a.x.dim(1)),
              [&](int64_t begin, int64_t end) {
                for (int64_t r = begin; r < end; ++r) {
                  if (r < kept) {
                    const int64_t t = found.items[r] / top_k;
                    std::memcpy(to + r * to_step, a.x.as<char>() + t * from_step, bytes);
                  } else {
                    std::memset(to + r * to_step, 0, bytes);
                  }
                }
              });
  return Status();
}

constexpr Variant<Job> kVariants[] = {{"rows", Isa::kBaseline, nullptr, Run}};

}  // namespace

Status MoeDispatch(const LaunchContext& ctx, const MoeDispatchArgs& a) {
  KPT_RETURN_IF_ERROR(CheckRowMatrix(kOp, "x", a.x));
  if (a.num_experts < 0) {
    return Status::InvalidArgument(Argument(kOp, "num_experts") + "must not be negative, got " +
                                   std::to_string(a.num_experts));
  }
  Job job = {&a, {}};
  KPT_RETURN_IF_ERROR(ReadKeys(kOp, "indices", a.indices, 0, a.num_experts, "experts", &job.keys));
  const int64_t tokens = a.x.dim(0);
  const int64_t top_k = a.indices.dim(1);
  KPT_RETURN_IF_ERROR(CheckMatrix(kOp, "indices", a.indices, tokens, top_k, DType::kInt64));
  int64_t rows = tokens * top_k;
  if (rows > INT32_MAX) {
    return Status::InvalidArgument(Argument(kOp, "indices") + "has " + std::to_string(rows) +
                                   " choices, more than offsets of 32 bits can count");
  }
  if (a.capacity >= 0) rows = std::min(rows, a.capacity * a.num_experts);
  KPT_RETURN_IF_ERROR(CheckMatrix(kOp, "permuted", a.permuted, rows, a.x.dim(1), a.x.dtype));
  KPT_RETURN_IF_ERROR(CheckMatrix(kOp, "row_of", a.row_of, tokens, top_k, DType::kInt64));
  if (a.offsets.dtype != DType::kInt32 || a.offsets.rank != 1 ||
      a.offsets.dim(0) != a.num_experts) {
    return Status::InvalidArgument(Argument(kOp, "offsets") + "must be int32 [" +
                                   std::to_string(a.num_experts) + "], got " +
                                   ShapeText(a.offsets));
  }
  KPT_RETURN_IF_ERROR(CheckOutput(kOp, "permuted", a.permuted, {&a.x, &a.indices}));
  KPT_RETURN_IF_ERROR(CheckOutput(kOp, "row_of", a.row_of, {&a.x, &a.indices, &a.permuted}));
  KPT_RETURN_IF_ERROR(CheckOutput(kOp, "offsets", a.offsets, {&a.x, &a.indices, &a.row_of}));
  if (a.capacity >= 0) DropBeyond(a.capacity, a.num_experts, tokens, top_k, &job.keys);
  return RunFirst(kOp, kVariants, ctx, job);
}

std::vector<VariantInfo> MoeDispatchVariants() { return ListVariants(kVariants); }

}  // namespace kpt::cpu

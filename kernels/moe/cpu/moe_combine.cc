#include "kernels/moe/moe_combine.h"

#include <vector>

#include "kernels/base/buckets.h"
#include "kernels/base/scratch.h"
#include "kernels/moe/cpu/moe_checks.h"
#include "kernels/moe/cpu/moe_loops.h"

namespace kpt::cpu {
namespace {

constexpr const char* kOp = "moe_combine";
constexpr const char* kBackwardOp = "moe_combine_backward";

using RowsFn = void (*)(const CombineJob&, int64_t, int64_t);
using ToFloatsFn = void (*)(DType, const void*, int64_t, float*);
using FromFloatsFn = void (*)(DType, const float*, int64_t, void*);

// A job, and the tensors whose elements are converted at its ends.
struct Call {
  CombineJob job;
  const TensorView* weights;
  float* weight_floats;
  const MutableTensorView* grad_weights;
};

template <ToFloatsFn kToFloats>
void ReadWeights(const Call& call) {
  const TensorView& w = *call.weights;
  const int64_t step = w.stride(0) * ItemSize(w.dtype);
  for (int64_t t = 0; t < w.dim(0); ++t) {
    kToFloats(w.dtype, w.as<char>() + t * step, w.dim(1), call.weight_floats + t * w.dim(1));
  }
}

template <RowsFn kRows, ToFloatsFn kToFloats>
Status Run(const LaunchContext& ctx, const Call& call) {
  ReadWeights<kToFloats>(call);
  const CombineJob& job = call.job;
  ParallelFor(ctx.num_threads, job.tokens, MoeGrain(job.cols * (job.top_k + 1)),
              [&](int64_t begin, int64_t end) { kRows(job, begin, end); });
  return Status();
}

template <RowsFn kGradY, RowsFn kGradWeights, ToFloatsFn kToFloats, FromFloatsFn kFromFloats>
Status RunBackward(const LaunchContext& ctx, const Call& call) {
  ReadWeights<kToFloats>(call);
  const CombineJob& job = call.job;
  if (job.grad_y != nullptr) {
    ParallelFor(ctx.num_threads, job.rows, MoeGrain(2 * job.cols),
                [&](int64_t begin, int64_t end) { kGradY(job, begin, end); });
  }
  if (job.grad_weights != nullptr) {
    ParallelFor(ctx.num_threads, job.tokens, MoeGrain(job.cols * (job.top_k + 1)),
                [&](int64_t begin, int64_t end) { kGradWeights(job, begin, end); });
    const MutableTensorView& g = *call.grad_weights;
    const int64_t step = g.stride(0) * ItemSize(g.dtype);
    for (int64_t t = 0; t < job.tokens; ++t) {
      kFromFloats(g.dtype, job.grad_weights + t * job.top_k, job.top_k,
                  g.as_mutable<char>() + t * step);
    }
  }
  return Status();
}

#define KPT_RUN(ns) Run<ns::CombineRows, ns::ToFloats>
constexpr Variant<Call> kVariants[] = KPT_MOE_VARIANTS(KPT_RUN);
#undef KPT_RUN
#define KPT_RUN(ns) RunBackward<ns::GradYRows, ns::GradWeightRows, ns::ToFloats, ns::FromFloats>
constexpr Variant<Call> kBackwardVariants[] = KPT_MOE_VARIANTS(KPT_RUN);
#undef KPT_RUN

Status CheckWeights(const char* op, const TensorView& weights, const TensorView& row_of,
                    DType dtype) {
  const DType wanted = weights.dtype == DType::kFloat32 ? DType::kFloat32 : dtype;
  return CheckMatrix(op, "weights", weights, row_of.dim(0), row_of.dim(1), wanted);
}

}  // namespace

Status MoeCombine(const LaunchContext& ctx, const MoeCombineArgs& a) {
  KPT_RETURN_IF_ERROR(CheckRowMatrix(kOp, "y", a.y));
  std::vector<int64_t> rows;
  KPT_RETURN_IF_ERROR(ReadKeys(kOp, "row_of", a.row_of, -1, a.y.dim(0), "rows of 'y'", &rows));
  KPT_RETURN_IF_ERROR(CheckWeights(kOp, a.weights, a.row_of, a.y.dtype));
  KPT_RETURN_IF_ERROR(CheckMatrix(kOp, "out", a.out, a.row_of.dim(0), a.y.dim(1), a.y.dtype));
  KPT_RETURN_IF_ERROR(CheckOutput(kOp, "out", a.out, {&a.y, &a.row_of, &a.weights}));
  Call call = {};
  CombineJob& job = call.job;
  job.tokens = a.row_of.dim(0);
  job.top_k = a.row_of.dim(1);
  job.rows = a.y.dim(0);
  job.cols = a.y.dim(1);
  job.dtype = a.y.dtype;
  job.y = a.y.data;
  job.ld_y = a.y.stride(0);
  job.row_of = rows.data();
  call.weights = &a.weights;
  call.weight_floats = ScratchAs<float>(0, rows.size() + 1);
  if (call.weight_floats == nullptr) return OutOfScratch(kOp);
  job.weights = call.weight_floats;
  job.out = a.out.mutable_data();
  job.ld_out = a.out.stride(0);
  return RunFirst(kOp, kVariants, ctx, call);
}

std::vector<VariantInfo> MoeCombineVariants() { return ListVariants(kVariants); }

Status MoeCombineBackward(const LaunchContext& ctx, const MoeCombineBackwardArgs& a) {
  KPT_RETURN_IF_ERROR(CheckRowMatrix(kBackwardOp, "y", a.y));
  std::vector<int64_t> rows;
  KPT_RETURN_IF_ERROR(
      ReadKeys(kBackwardOp, "row_of", a.row_of, -1, a.y.dim(0), "rows of 'y'", &rows));
  KPT_RETURN_IF_ERROR(CheckWeights(kBackwardOp, a.weights, a.row_of, a.y.dtype));
  KPT_RETURN_IF_ERROR(
      CheckMatrix(kBackwardOp, "grad_out", a.grad_out, a.row_of.dim(0), a.y.dim(1), a.y.dtype));
  const auto inputs = {&a.grad_out, &a.y, &a.row_of, &a.weights};
  Call call = {};
  CombineJob& job = call.job;
  if (a.grad_y.present()) {
    KPT_RETURN_IF_ERROR(CheckLike(kBackwardOp, "grad_y", a.grad_y, "y", a.y));
    KPT_RETURN_IF_ERROR(CheckOutput(kBackwardOp, "grad_y", a.grad_y, inputs));
    job.grad_y = a.grad_y.mutable_data();
    job.ld_grad_y = a.grad_y.stride(0);
  }
  job.tokens = a.row_of.dim(0);
  job.top_k = a.row_of.dim(1);
  job.rows = a.y.dim(0);
  job.cols = a.y.dim(1);
  job.dtype = a.y.dtype;
  job.y = a.y.data;
  job.ld_y = a.y.stride(0);
  job.row_of = rows.data();
  call.weights = &a.weights;
  float* floats = ScratchAs<float>(0, 2 * rows.size() + 1);
  if (floats == nullptr) return OutOfScratch(kBackwardOp);
  call.weight_floats = floats;
  job.weights = floats;
  if (a.grad_weights.present()) {
    KPT_RETURN_IF_ERROR(CheckMatrix(kBackwardOp, "grad_weights", a.grad_weights, job.tokens,
                                    job.top_k, a.weights.dtype));
    KPT_RETURN_IF_ERROR(CheckOutput(kBackwardOp, "grad_weights", a.grad_weights, inputs));
    call.grad_weights = &a.grad_weights;
    job.grad_weights = floats + rows.size();
  }
  job.out = const_cast<void*>(a.grad_out.data);
  job.ld_out = a.grad_out.stride(0);
  const Buckets readers = SortIntoBuckets(rows, job.rows);
  job.reader_starts = readers.starts.data();
  job.readers = readers.items.data();
  return RunFirst(kBackwardOp, kBackwardVariants, ctx, call);
}

std::vector<VariantInfo> MoeCombineBackwardVariants() { return ListVariants(kBackwardVariants); }

}  // namespace kpt::cpu

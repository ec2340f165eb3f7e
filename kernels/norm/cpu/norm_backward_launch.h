// What the norms' gradients share outside the loops: checks, scratch, threads, the variant table.
#ifndef KPT_KERNELS_NORM_CPU_NORM_BACKWARD_LAUNCH_H_
#define KPT_KERNELS_NORM_CPU_NORM_BACKWARD_LAUNCH_H_

#include <cstddef>
#include <string>

#include "kernels/base/parallel_for.h"
#include "kernels/base/row_checks.h"
#include "kernels/base/scratch.h"
#include "kernels/base/variant.h"
#include "kernels/norm/cpu/norm_backward_rows.h"
#include "kernels/norm/norm_checks.h"

namespace kpt::cpu {

// The arguments of either; absent views where an operator has none.
struct NormBackwardTensors {
  TensorView grad_x, grad_weight, grad_bias, grad_y, x, weight, bias, grad_new_residual;
};

inline Status MakeNormBackwardJob(const char* op, NormBackwardTensors t, float eps,
                                  bool subtract_mean, NormBackwardJob* job) {
  using J = NormBackwardJob;
  KPT_RETURN_IF_ERROR(CheckRows(op, "x", t.x, 1));
  KPT_RETURN_IF_ERROR(CheckLike(op, "grad_y", t.grad_y, "x", t.x));
  KPT_RETURN_IF_ERROR(CheckLike(op, "grad_x", t.grad_x, "x", t.x));
  KPT_RETURN_IF_ERROR(CheckParam(op, "weight", t.weight, t.x));
  KPT_RETURN_IF_ERROR(CheckParam(op, "bias", t.bias, t.x));
  // An empty gradient is one that is not wanted.
  for (TensorView* view : {&t.grad_weight, &t.grad_bias}) {
    if (view->present() && view->size() == 0) *view = TensorView();
  }
  KPT_RETURN_IF_ERROR(CheckParam(op, "grad_weight", t.grad_weight, t.x));
  KPT_RETURN_IF_ERROR(CheckParam(op, "grad_bias", t.grad_bias, t.x));
  if (t.grad_new_residual.present()) {
    KPT_RETURN_IF_ERROR(CheckLike(op, "grad_new_residual", t.grad_new_residual, "x", t.x));
  }
  const TensorView* outs[] = {&t.grad_x, &t.grad_weight, &t.grad_bias};
  const char* names[] = {"grad_x", "grad_weight", "grad_bias"};
  const TensorView* ins[] = {&t.x, &t.grad_y, &t.grad_new_residual, &t.weight};
  const char* in_names[] = {"x", "grad_y", "grad_new_residual", "weight"};
  for (int i = 0; i < 3; ++i) {
    if (!outs[i]->present() || outs[i]->size() == 0) continue;
    KPT_RETURN_IF_ERROR(CheckWritesOnce(op, names[i], *outs[i]));
    for (int j = 0; j < 4; ++j) {
      const bool in_place = i == 0 && j < 3;
      KPT_RETURN_IF_ERROR(CheckOverlap(op, names[i], *outs[i], in_names[j], *ins[j], in_place));
    }
    for (int j = 0; j < i; ++j) {
      KPT_RETURN_IF_ERROR(CheckOverlap(op, names[i], *outs[i], names[j], *outs[j], false));
    }
  }
  job->plan = PlanRows<J::kNumTensors>({&t.grad_x, &t.grad_y, &t.x, &t.grad_new_residual});
  job->cols = t.x.dim(-1);
  job->dtype = t.x.dtype;
  job->grad_x = const_cast<void*>(t.grad_x.data);
  job->grad_y = t.grad_y.data;
  job->x = t.x.data;
  job->grad_sum = t.grad_new_residual.present() ? t.grad_new_residual.data : nullptr;
  job->weight = t.weight.present() ? t.weight.data : nullptr;
  job->weight_dtype = t.weight.dtype;
  if (t.grad_weight.present()) {
    job->grad_weight = const_cast<void*>(t.grad_weight.data);
    job->grad_weight_dtype = t.grad_weight.dtype;
  }
  if (t.grad_bias.present()) {
    job->grad_bias = const_cast<void*>(t.grad_bias.data);
    job->grad_bias_dtype = t.grad_bias.dtype;
  }
  job->subtract_mean = subtract_mean;
  job->eps = eps;
  // In place the lines are in the cache already.
  job->stream = job->grad_x != job->x && job->grad_x != job->grad_y &&
                job->grad_x != job->grad_sum && t.x.size() * ItemSize(t.x.dtype) >= kStreamBytes;
  if (job->has_sums()) {
    // At most 64 chunks, whose sums then take little of the caches; of 32 rows at least, next to
    // which clearing and adding up the sums is little work.
    const int64_t rows = job->plan.rows;
    job->chunk_rows = rows > 64 * 32 ? (rows + 63) / 64 : 32;
  }
  job->chunks = (job->plan.rows + job->chunk_rows - 1) / job->chunk_rows;
  // No rows: the sums are zero.
  if (job->has_sums() && job->chunks == 0) job->chunks = 1;
  return Status();
}

using NormBackwardFn = void (*)(const NormBackwardJob& job, int64_t begin, int64_t end);

template <const float* (*kWeight)(const NormBackwardJob& job, float* buffer),
          NormBackwardFn kChunks, NormBackwardFn kParams>
Status RunNormBackward(const LaunchContext& ctx, const NormBackwardJob& checked) {
  NormBackwardJob job = checked;
  job.sums_stride = (job.cols + 15) / 16 * 16;
  const int64_t sums = job.has_sums() ? job.chunks * 2 * job.sums_kinds() : 0;
  float* scratch = ScratchAs<float>(0, static_cast<size_t>((1 + sums) * job.sums_stride));
  if (scratch == nullptr) return Status::ResourceExhausted("no memory for the sums of gradients");
  job.wide_weight = kWeight(job, scratch);
  job.sums = scratch + job.sums_stride;
  // A parallel region costs about as much as this many elements take.
  constexpr int64_t kGrain = 4096;
  ParallelFor(ctx.num_threads, job.chunks, kGrain / (job.cols * job.chunk_rows) + 1,
              [&](int64_t begin, int64_t end) { kChunks(job, begin, end); });
  if (!job.has_sums()) return Status();
  const int64_t pieces = (job.cols + kNormBackwardPiece - 1) / kNormBackwardPiece;
  ParallelFor(ctx.num_threads, pieces, 16 / job.chunks + 1,
              [&](int64_t begin, int64_t end) { kParams(job, begin, end); });
  return Status();
}

#define KPT_NORM_BACKWARD(isa) \
  RunNormBackward<isa::NormBackwardWeight, isa::NormBackwardChunks, isa::NormBackwardParams>
inline constexpr Variant<NormBackwardJob> kNormBackwardVariants[] = {
#if defined(KPT_HAVE_X86_VARIANTS)
    {"rows_avx512_bf16", Isa::kAvx512Bf16, nullptr, KPT_NORM_BACKWARD(avx512_bf16)},
    {"rows_avx512", Isa::kAvx512, nullptr, KPT_NORM_BACKWARD(avx512)},
    {"rows_avx2", Isa::kAvx2, nullptr, KPT_NORM_BACKWARD(avx2)},
#endif
    {"rows_baseline", Isa::kBaseline, nullptr, KPT_NORM_BACKWARD(baseline)},
};
#undef KPT_NORM_BACKWARD

inline Status RunNormBackward(const char* op, const LaunchContext& ctx,
                              const NormBackwardTensors& tensors, float eps, bool subtract_mean) {
  NormBackwardJob job;
  KPT_RETURN_IF_ERROR(MakeNormBackwardJob(op, tensors, eps, subtract_mean, &job));
  if (job.cols == 0) return Status();
  return RunFirst(op, kNormBackwardVariants, ctx, job);
}

}  // namespace kpt::cpu

#endif  // KPT_KERNELS_NORM_CPU_NORM_BACKWARD_LAUNCH_H_

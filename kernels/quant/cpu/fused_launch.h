// What the fused operators share outside their loops.
#ifndef KPT_KERNELS_QUANT_CPU_FUSED_LAUNCH_H_
#define KPT_KERNELS_QUANT_CPU_FUSED_LAUNCH_H_

#include <cstddef>
#include <string>

#include "kernels/base/launch_context.h"
#include "kernels/base/parallel_for.h"
#include "kernels/base/scratch.h"
#include "kernels/base/variant.h"
#include "kernels/quant/cpu/fused_rows.h"
#include "kernels/quant/fused_checks.h"

namespace kpt::cpu {

// Fills what a checked job has of quantization but for the plan; `y` is what is quantized.
inline void SetQuantization(const TensorView& y, const TensorView& codes,
                            const TensorView& scale_out, const TensorView& scale_in,
                            Granularity granularity, FusedJob* job) {
  job->cols = y.dim(-1);
  job->group = granularity == Granularity::kBlock1x128 ? kScaleBlock : job->cols;
  job->shared = granularity == Granularity::kTensor;
  job->spec.measure_scale = !scale_in.present();
  job->spec.stream = codes.size() >= kStreamBytes;
  job->x_dtype = y.dtype;
  job->codes = static_cast<uint8_t*>(const_cast<void*>(codes.data));
  job->scales.scale_in = scale_in.as<float>();
  job->scales.scale_out = static_cast<float*>(const_cast<void*>(scale_out.data));
}

// Runs the rows, each thread with a row buffer of its own.
template <FusedRowsFn kRows>
Status RunFusedRows(const LaunchContext& ctx, const FusedJob& checked) {
  FusedJob job = checked;
  if (job.shared) {
    *job.scales.scale_out = *job.scales.scale_in;
    job.scales.scale_out = nullptr;
  }
  const int64_t rows = job.plan.rows;
  if (rows == 0 || (job.cols == 0 && job.group != job.cols)) return Status();
  constexpr int64_t kGrain = 8192;  // elements that a parallel region costs as much as
  const int64_t most = rows / (kGrain / (job.cols + 1) + 1) + 1;
  const int threads = static_cast<int>(most < ctx.num_threads ? most : ctx.num_threads);
  const int64_t stride = (job.cols + 15) / 16 * 16 + 16;  // rows start on cache lines
  float* buffer = ScratchAs<float>(0, static_cast<size_t>(stride * threads));
  if (buffer == nullptr) {
    return Status::ResourceExhausted("no scratch memory for rows of " + std::to_string(job.cols));
  }
  Parallel(threads, [&](int thread, int all) {
    const int64_t begin = rows * thread / all;
    const int64_t end = rows * (thread + 1) / all;
    if (begin < end) kRows(job, begin, end, buffer + stride * thread);
  });
  return Status();
}

}  // namespace kpt::cpu

#endif  // KPT_KERNELS_QUANT_CPU_FUSED_LAUNCH_H_

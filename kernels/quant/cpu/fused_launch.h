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
#include "kernels/quant/scale_checks.h"

namespace kpt::cpu {

// Checks the outputs of quantization against `y`, the shape that is quantized, and fills what the
// job has of them but for the plan.
inline Status SetQuantization(const char* op, const TensorView& y, const TensorView& codes,
                              const TensorView& scale_out, const TensorView& scale_in,
                              Granularity granularity, FusedJob* job) {
  switch (codes.dtype) {
    case DType::kFloat8E4M3FN:
      job->spec.format = QuantFormat::kE4M3;
      break;
    case DType::kFloat8E5M2:
      job->spec.format = QuantFormat::kE5M2;
      break;
    case DType::kInt8:
      job->spec.format = QuantFormat::kInt8;
      break;
    default:
      return Status::TypeError(Argument(op, "y_q") +
                               "must have dtype float8_e4m3fn, float8_e5m2 or int8, got " +
                               Name(codes.dtype));
  }
  if (granularity == Granularity::kBlock128x128 ||
      (granularity == Granularity::kBlock1x128 && codes.dtype == DType::kInt8)) {
    return Status::InvalidArgument(Argument(op, "granularity") +
                                   "must be tensor, row or (fp8) block1x128");
  }
  if (granularity == Granularity::kTensor && !scale_in.present()) {
    return Status::InvalidArgument(Argument(op, "scale") + "must be given for one tensor scale");
  }
  TensorView like = codes;
  like.dtype = y.dtype;
  KPT_RETURN_IF_ERROR(CheckLike(op, "y_q", like, "x", y));
  KPT_RETURN_IF_ERROR(CheckScales(op, "scale_out", scale_out, DType::kFloat32, y, granularity));
  if (scale_in.present()) {
    KPT_RETURN_IF_ERROR(CheckScales(op, "scale", scale_in, DType::kFloat32, y, granularity));
  }
  job->cols = y.dim(-1);
  job->group = granularity == Granularity::kBlock1x128 ? kScaleBlock : job->cols;
  job->spec.measure_scale = !scale_in.present();
  job->spec.stream = codes.size() >= kStreamBytes;
  job->x_dtype = y.dtype;
  job->codes = static_cast<uint8_t*>(const_cast<void*>(codes.data));
  job->scales.scale_in = scale_in.as<float>();
  job->scales.scale_out = static_cast<float*>(const_cast<void*>(scale_out.data));
  return Status();
}

// outs[i] is written once, and overlaps neither an input nor another output.
template <int kOuts, int kIns>
Status CheckApart(const char* op, const TensorView* const (&outs)[kOuts],
                  const char* const (&out_names)[kOuts], const TensorView* const (&ins)[kIns],
                  const char* const (&in_names)[kIns]) {
  for (int i = 0; i < kOuts; ++i) {
    if (!outs[i]->present()) continue;
    KPT_RETURN_IF_ERROR(CheckWritesOnce(op, out_names[i], *outs[i]));
    for (int j = 0; j < kIns; ++j) {
      KPT_RETURN_IF_ERROR(CheckOverlap(op, out_names[i], *outs[i], in_names[j], *ins[j], false));
    }
    for (int j = 0; j < i; ++j) {
      KPT_RETURN_IF_ERROR(CheckOverlap(op, out_names[i], *outs[i], out_names[j], *outs[j], false));
    }
  }
  return Status();
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

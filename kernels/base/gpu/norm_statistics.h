// The statistics of a row that a norm normalizes by.
#ifndef KPT_KERNELS_BASE_GPU_NORM_STATISTICS_H_
#define KPT_KERNELS_BASE_GPU_NORM_STATISTICS_H_

#include "kernels/base/gpu/pack.h"
#include "kernels/base/gpu/row_group.h"

namespace kpt::gpu {

// The mean is shift + rest: a large mean is no float, and its rounding would show in every result.
struct NormStatistics {
  float shift, rest, rstd;
};

// From the sums over the row of the distances from `shift`, and of their squares. A norm that
// subtracts no mean has the shift 0.
KPT_DEVICE NormStatistics StatisticsOf(bool subtract_mean, float shift, float sum, float squares,
                                       float count, float eps) {
  float variance = squares / count;
  float rest = 0.0f;
  if (subtract_mean) {
    rest = sum / count;
    variance -= rest * rest;
    variance = variance < 0.0f ? 0.0f : variance;  // in this order NaN stays
  }
  return {shift, rest, 1.0f / SquareRoot(variance + eps)};
}

template <class T, int kWidth>
KPT_DEVICE float SumOf(const Pack<T, kWidth>& h) {
  float v[kWidth], sum = 0.0f;
  h.Widen(v);
#pragma unroll
  for (int i = 0; i < kWidth; ++i) sum += v[i];
  return sum;
}

}  // namespace kpt::gpu

#endif  // KPT_KERNELS_BASE_GPU_NORM_STATISTICS_H_

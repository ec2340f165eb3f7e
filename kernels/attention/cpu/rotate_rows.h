// Rotates single rows of floats on their way into or against a cache.
//
// Included by files compiled once per instruction set: everything lies in KPT_SIMD_NS.
#ifndef KPT_KERNELS_ATTENTION_CPU_ROTATE_ROWS_H_
#define KPT_KERNELS_ATTENTION_CPU_ROTATE_ROWS_H_

#include "kernels/attention/cache_places.h"
#include "kernels/attention/cpu/flash_problem.h"
#include "kernels/base/simd_rotate.h"
#include "kernels/base/simd_widen.h"

HWY_BEFORE_NAMESPACE();
namespace kpt::cpu::KPT_SIMD_NS {

// Cosines and sines of one position, widened.
struct Angles {
  alignas(64) float cos[kFlashMaxDim / 2];
  alignas(64) float sin[kFlashMaxDim / 2];
};

[[maybe_unused]] static void LoadAngles(const Rotation& r, int64_t batch, int64_t token,
                                        Angles* angles) {
  const auto widen = [&](const void* table, int64_t at, float* out) {
    switch (r.dtype) {
      case DType::kFloat32:
        return Widen<float>(static_cast<const float*>(table) + at, r.pairs, out);
      case DType::kFloat16:
        return Widen<float>(static_cast<const Half*>(table) + at, r.pairs, out);
      default:
        return Widen<float>(static_cast<const BFloat16*>(table) + at, r.pairs, out);
    }
  };
  widen(r.cos, batch * r.cos_batch + token * r.cos_row, angles->cos);
  widen(r.sin, batch * r.sin_batch + token * r.sin_row, angles->sin);
}

// `row` turned in place; what lies behind its pairs stays.
[[maybe_unused]] static void TurnRow(const Rotation& r, const Angles& angles, float* row) {
  if (r.interleaved) {
    TurnNeighbours(row, angles.cos, angles.sin, r.pairs, false, row);
  } else {
    float* second = row + r.pairs;
    TurnHalves(row, second, angles.cos, angles.sin, r.pairs, false, row, second);
  }
}

}  // namespace kpt::cpu::KPT_SIMD_NS
HWY_AFTER_NAMESPACE();

#endif  // KPT_KERNELS_ATTENTION_CPU_ROTATE_ROWS_H_

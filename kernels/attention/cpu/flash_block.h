// The working memory of one query block, and reading and writing its rows.
//
// Included by files compiled once per instruction set: everything lies in KPT_SIMD_NS.
#ifndef KPT_KERNELS_ATTENTION_CPU_FLASH_BLOCK_H_
#define KPT_KERNELS_ATTENTION_CPU_FLASH_BLOCK_H_

#include <cstdint>
#include <cstring>

#include "kernels/attention/cpu/flash_problem.h"
#include "kernels/base/simd_io.h"
#include "kernels/base/simd_math.h"

HWY_BEFORE_NAMESPACE();
namespace kpt::cpu::KPT_SIMD_NS {

// Every row of q, scores, weights and outputs starts 17 cache lines after the one before: room for
// 256 floats, and no two rows of a tile fall into the same set of the cache.
constexpr int kRowFloats = 272;
constexpr int kMaxBlockKeys = 256;
static_assert(kRowFloats >= kFlashMaxDim && kRowFloats >= kMaxBlockKeys, "rows must fit");

constexpr float kNegInf = -__builtin_huge_valf();
constexpr float kLn2 = 0.693147180559945309f;

KPT_SIMD_INLINE int64_t RoundUp(int64_t n, int64_t to) { return (n + to - 1) / to * to; }
KPT_SIMD_INLINE int64_t Least(int64_t a, int64_t b) { return a < b ? a : b; }
KPT_SIMD_INLINE int64_t Most(int64_t a, int64_t b) { return a > b ? a : b; }

// One query block at work, kRows queries of one head.
//
// Rows are handled in groups of kGroupRows; arrays of one number a row leave room for whole
// vectors of 16 in each group (kStateRows a group), so that groups never overlap there.
template <class PackedType, int kRows, int kGroupRows>
struct Block {
  using Packed = PackedType;
  static constexpr int kStateRows = (kGroupRows + 15) / 16 * 16;
  static constexpr int kGroups = (kRows + kGroupRows - 1) / kGroupRows;
  static constexpr int kStates = kGroups * kStateRows;
  static constexpr int kPackedStride = kRowFloats * 4 / static_cast<int>(sizeof(Packed));

  alignas(64) Packed q[kGroups * kGroupRows * kPackedStride];
  alignas(64) float s[kRows * kRowFloats];        // scores, then in place the weights as Packed
  alignas(64) float o[kRows * kRowFloats];        // weighted sums of v
  alignas(64) float partial[(kRows + 16) * 16];   // per row a vector: sums of the weights
  alignas(64) float row_vector[kStateRows * 16];  // per row of a group a vector: maxima
  // The reference maximum; the same with 0 for -inf; the factor that a moved maximum puts on what
  // was summed before.
  alignas(64) float max[kStates];
  alignas(64) float shift[kStates];
  alignas(64) float rescale[kStates];
  alignas(64) float bias[kMaxBlockKeys];
  alignas(64) Packed rows[16 * kPackedStride];  // while packing: rows that cannot be read in place

  Packed* weights(int row) { return reinterpret_cast<Packed*>(s + row * kRowFloats); }
};

// dst[0, n) = src[0, n) in the kernel's type; dst[n, padded) = 0.
template <class T>
KPT_SIMD_INLINE void ConvertRow(const T* src, int64_t n, int64_t padded, float* dst) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) hn::StoreU(Load(src + i), FloatTag(), dst + i);
  if (i < n) StoreN(LoadN(src + i, n - i), dst + i, n - i);
  for (i = n; i < padded; ++i) dst[i] = 0.0f;
}
KPT_SIMD_INLINE void CopyRow(const void* src, DType dtype, int64_t n, int64_t padded, float* dst) {
  if (dtype == DType::kFloat32) {
    ConvertRow(static_cast<const float*>(src), n, padded, dst);
  } else if (dtype == DType::kFloat16) {
    ConvertRow(static_cast<const Half*>(src), n, padded, dst);
  } else {
    ConvertRow(static_cast<const BFloat16*>(src), n, padded, dst);
  }
}
KPT_SIMD_INLINE void CopyRow(const void* src, DType, int64_t n, int64_t padded, uint16_t* dst) {
  std::memcpy(dst, src, static_cast<size_t>(n) * sizeof(uint16_t));
  for (int64_t i = n; i < padded; ++i) dst[i] = 0;
}

template <class Packed>
constexpr bool IsPackedType(DType dtype) {
  return dtype == (sizeof(Packed) == 2 ? DType::kBFloat16 : DType::kFloat32);
}

KPT_SIMD_INLINE const char* RowOf(const void* data, const HeadStrides& s, int64_t batch,
                                  int64_t head, int64_t row, DType dtype) {
  return static_cast<const char*>(data) +
         (batch * s.batch + head * s.head + row * s.row) * ItemSize(dtype);
}

// out[0, n) = scale * o[0, n)
KPT_SIMD_INLINE void WriteRow(const float* o, float scale, int64_t n, DType dtype, void* out) {
  const FloatVec factor = Set(scale);
  const auto scaled = [factor](FloatVec x) { return hn::Mul(x, factor); };
  if (dtype == DType::kFloat32) {
    MapRow<false>(scaled, n, static_cast<float*>(out), o);
  } else if (dtype == DType::kFloat16) {
    MapRow<false>(scaled, n, static_cast<Half*>(out), o);
  } else {
    MapRow<false>(scaled, n, static_cast<BFloat16*>(out), o);
  }
}

}  // namespace kpt::cpu::KPT_SIMD_NS
HWY_AFTER_NAMESPACE();

#endif  // KPT_KERNELS_ATTENTION_CPU_FLASH_BLOCK_H_

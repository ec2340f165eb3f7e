// The matrix product on vector registers: float multiply-add, or pairs of bfloat16 (vdpbf16ps).
//
//   c[row][column] (+)= sum over dwords t of a[row][t] * b[t][column]
//
// A dword holds one float or two bfloat16 that are both summed over. Rows of `a` are kAStride
// elements apart, those of `b` kTileLanes dwords, those of `c` as many floats as the caller says.
//
// The accumulators are a tile of rows x vectors that fills the registers (24 of 32, or 12 of 16):
// with 6 x 4, four loads and six broadcasts feed 24 multiply-adds, so loads are not the limit.
//
// Included by files compiled once per instruction set: everything lies in KPT_SIMD_NS.
#ifndef KPT_KERNELS_ATTENTION_CPU_TILE_PRODUCT_H_
#define KPT_KERNELS_ATTENTION_CPU_TILE_PRODUCT_H_

#include <cstdint>
#include <cstring>

#include "kernels/attention/cpu/flash_block.h"

HWY_BEFORE_NAMESPACE();
namespace kpt::cpu::KPT_SIMD_NS {

constexpr int kTileVectors = kLanes == 16 ? 4 : 2;
constexpr int kTileLanes = kTileVectors * static_cast<int>(kLanes);

// sum + (the dword at a, in all lanes) * b
KPT_SIMD_INLINE FloatVec MultiplyDword(const float* a, FloatVec b, FloatVec sum) {
  return hn::MulAdd(Set(*a), b, sum);
}
#if defined(__AVX512BF16__)
KPT_SIMD_INLINE FloatVec MultiplyDword(const uint16_t* a, FloatVec b, FloatVec sum) {
  int pair;
  std::memcpy(&pair, a, sizeof(pair));
  return FloatVec{_mm512_dpbf16_ps(sum.raw, reinterpret_cast<__m512bh>(_mm512_set1_epi32(pair)),
                                   reinterpret_cast<__m512bh>(b.raw))};
}
#endif

template <class Packed, int kAStride>
struct TileProduct {
  static constexpr int kPerDword = 4 / static_cast<int>(sizeof(Packed));

  // For up to kTileVectors vectors of columns and any number of rows.
  static void Multiply(int vectors, int rows, const Packed* a, const Packed* b, int64_t steps,
                       float* c, int64_t c_stride, bool add) {
    if constexpr (kTileVectors == 4) {
      if (vectors == 4) return Rows<6, 4>(rows, a, b, steps, c, c_stride, add);
      if (vectors == 3) return Rows<6, 3>(rows, a, b, steps, c, c_stride, add);
      if (vectors == 2) return Rows<12, 2>(rows, a, b, steps, c, c_stride, add);
    } else {
      if (vectors == 2) return Rows<6, 2>(rows, a, b, steps, c, c_stride, add);
    }
    return Rows<12, 1>(rows, a, b, steps, c, c_stride, add);
  }

  // For one vector of columns, without adding: registers are left for four sums over parts of the
  // depth, which is more exact, since they are shorter. `steps` is a multiple of four.
  static void MultiplyDeep(int rows, const Packed* a, const Packed* b, int64_t steps, float* c,
                           int64_t c_stride) {
    Rows<kTileVectors == 4 ? 6 : 3, 1, 4>(rows, a, b, steps, c, c_stride, false);
  }

 private:
  template <int kRows, int kCols, int kChains = 1>
  static void Rows(int rows, const Packed* a, const Packed* b, int64_t steps, float* c,
                   int64_t c_stride, bool add) {
    for (; rows >= kRows; rows -= kRows) {
      Tile<kRows, kCols, kChains>(a, b, steps, c, c_stride, add);
      a += kRows * kAStride;
      c += kRows * c_stride;
    }
    if constexpr (kRows > 1) {
      constexpr int kFewer = kRows == 12 ? 6 : kRows == 6 ? 4 : kRows / 2;
      if (rows > 0) Rows<kFewer, kCols, kChains>(rows, a, b, steps, c, c_stride, add);
    }
  }

  // Chain i sums steps i, i + kChains, ...; `steps` is a multiple of kChains.
  template <int kRows, int kCols, int kChains>
  static void Tile(const Packed* a, const Packed* b, int64_t steps, float* c, int64_t c_stride,
                   bool add) {
    FloatVec sum[kRows][kCols * kChains];
    HWY_UNROLL(12)
    for (int r = 0; r < kRows; ++r) {
      HWY_UNROLL(4)
      for (int v = 0; v < kCols * kChains; ++v) {
        sum[r][v] = Set(0.0f);
      }
    }
    const float* columns = reinterpret_cast<const float*>(b);  // dwords
    for (int64_t k = 0; k < steps; k += kChains) {
      FloatVec x[kCols * kChains];
      HWY_UNROLL(4)
      for (int v = 0; v < kCols * kChains; ++v) {
        const int64_t step = k + v / kCols;
        x[v] = hn::LoadU(FloatTag(), columns + step * kTileLanes + v % kCols * kLanes);
      }
      HWY_UNROLL(12)
      for (int r = 0; r < kRows; ++r) {
        HWY_UNROLL(4)
        for (int v = 0; v < kCols * kChains; ++v) {
          const Packed* left = a + r * kAStride + (k + v / kCols) * kPerDword;
          sum[r][v] = MultiplyDword(left, x[v], sum[r][v]);
        }
      }
    }
    HWY_UNROLL(12)
    for (int r = 0; r < kRows; ++r) {
      HWY_UNROLL(4)
      for (int v = 0; v < kCols; ++v) {
        FloatVec all = sum[r][v];
        if constexpr (kChains == 4) {
          static_assert(kCols == 1 || kChains == 1, "chains are for one vector of columns");
          all = hn::Add(hn::Add(all, sum[r][1]), hn::Add(sum[r][2], sum[r][3]));
        }
        // Added last: one long chain of sums would be less exact than several short ones.
        float* to = c + r * c_stride + v * kLanes;
        if (add) all = hn::Add(hn::LoadU(FloatTag(), to), all);
        hn::StoreU(all, FloatTag(), to);
      }
    }
  }
};

}  // namespace kpt::cpu::KPT_SIMD_NS
HWY_AFTER_NAMESPACE();

#endif  // KPT_KERNELS_ATTENTION_CPU_TILE_PRODUCT_H_

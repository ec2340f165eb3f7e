// What the kernels of decoded weights on AVX-512 BF16 and VNNI share: the register tile that
// multiplies rows of x by a slice of decoded weights, and x packed by slices. Everything has
// internal linkage.
#ifndef KPT_KERNELS_GEMM_CPU_QUANT_TILE_AVX512_BF16_H_
#define KPT_KERNELS_GEMM_CPU_QUANT_TILE_AVX512_BF16_H_

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "kernels/gemm/cpu/decode_avx512_bf16.h"
#include "kernels/gemm/cpu/quant_gemm.h"

namespace kpt::cpu::avx512_bf16 {
namespace {

constexpr int kTileRows = 6;              // 6 x 4 accumulators, 4 panel vectors, a broadcast
constexpr int64_t kSliceInputs = 128;     // inputs whose weights are decoded at once
constexpr int64_t kPrefetchBytes = 8192;  // of the panel, ahead of the decoder

constexpr int64_t RoundUp(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// Inputs of a slice: of one group only, so that its sums have one scale.
inline int64_t SliceInputs(const QuantGemm& g) {
  return g.group_size > 0 ? g.group_size : kSliceInputs;
}

// x may be aligned to its elements only.
inline __m512i Broadcast(const char* p) {
  int32_t dword;
  std::memcpy(&dword, p, 4);
  return _mm512_set1_epi32(dword);
}

inline __m512 DotBf16(__m512 sum, __m512i a, __m512i b) {
  return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
}

struct Bf16Op {
  using Vec = __m512;
  static Vec Zero() { return _mm512_setzero_ps(); }
  static Vec Dot(Vec sum, __m512i a, __m512i b) { return DotBf16(sum, a, b); }
};
struct Int8Op {
  // The type the instruction's builtin has: GCC 12 stores accumulators of type __m512i to the stack
  // after every dot.
  using Vec = __v16si;
  static Vec Zero() { return reinterpret_cast<Vec>(_mm512_setzero_si512()); }
  static Vec Dot(Vec sum, __m512i a, __m512i b) {
    return reinterpret_cast<Vec>(_mm512_dpbusd_epi32(reinterpret_cast<__m512i>(sum), a, b));
  }
};

// finish(row, j, x[row][depth dwords] * b[depth][16 j .. 16 j + 15]) for rows row .. row + kRows.
template <class Op, int kRows, class Finish>
void Tile(const char* x, int64_t ldx, const char* b, int64_t depth, int64_t row,
          const Finish& finish) {
  typename Op::Vec acc[kRows][4];
#pragma GCC unroll 6
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) acc[i][j] = Op::Zero();
  }
  for (int64_t g = 0; g < depth; ++g, b += kPanelRowBytes, x += 4) {
    __m512i w[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) w[j] = LoadBytes(b + j * 64);
#pragma GCC unroll 6
    for (int i = 0; i < kRows; ++i) {
      __m512i a = Broadcast(x + i * ldx);
      asm("" : "+v"(a));  // one broadcast load, not one folded into each of four dots
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) acc[i][j] = Op::Dot(acc[i][j], a, w[j]);
    }
  }
#pragma GCC unroll 6
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) finish(row + i, j, acc[i][j]);
  }
}

// Tile for rows [begin, end), as even as can be.
template <class Op, class Finish>
void Slice(const char* x, int64_t ldx, const char* b, int64_t depth, int64_t begin, int64_t end,
           const Finish& finish) {
  const int64_t tiles = (end - begin + kTileRows - 1) / kTileRows;
  for (int64_t t = 0; t < tiles; ++t) {
    const int64_t r = begin + (end - begin) * t / tiles;
    const char* rows = x + r * ldx;
    switch (begin + (end - begin) * (t + 1) / tiles - r) {
      case 6:
        Tile<Op, 6>(rows, ldx, b, depth, r, finish);
        break;
      case 5:
        Tile<Op, 5>(rows, ldx, b, depth, r, finish);
        break;
      case 4:
        Tile<Op, 4>(rows, ldx, b, depth, r, finish);
        break;
      case 3:
        Tile<Op, 3>(rows, ldx, b, depth, r, finish);
        break;
      case 2:
        Tile<Op, 2>(rows, ldx, b, depth, r, finish);
        break;
      default:
        Tile<Op, 1>(rows, ldx, b, depth, r, finish);
    }
  }
}

// Sums of a slice, times the scale of their columns, to the sums [rows][64] of all slices.
struct AddScaled {
  float* sums;
  const float* scale;  // [64]

  void operator()(int64_t row, int j, __m512 v) const {
    float* at = sums + row * kPanelCols + j * 16;
    _mm512_storeu_ps(at, _mm512_fmadd_ps(v, _mm512_loadu_ps(scale + j * 16), _mm512_loadu_ps(at)));
  }
};

// `bytes` of each row to slices [slices][rows][slice_bytes], zero filled: in place, rows at a
// stride of a large power of two would lie in few sets of the caches, and so little of a row is
// read at a time that the hardware would not see a stream.
inline void PackSlices(const char* x, int64_t ldx, int64_t bytes, int64_t rows, int64_t slice_bytes,
                       int64_t slices, char* out) {
  for (int64_t r = 0; r < rows; ++r, x += ldx) {
    for (int64_t s = 0; s < slices; ++s) {
      const int64_t left = bytes - s * slice_bytes;
      const int64_t some = left < slice_bytes ? left : slice_bytes;
      char* to = out + (s * rows + r) * slice_bytes;
      std::memcpy(to, x + s * slice_bytes, static_cast<size_t>(some));
      std::memset(to + some, 0, static_cast<size_t>(slice_bytes - some));
    }
  }
}

// The scales of an int4 group for the columns of panel p.
inline void LoadScale(const QuantGemm& g, int64_t p, int64_t group, float* out) {
  const float* scale = g.scale + group * g.lds + p * kPanelCols;
  const int64_t cols = g.panel_cols(p);
  for (int64_t j = 0; j < kPanelCols; j += 16) {
    const int64_t left = cols - j;
    const __mmask16 mask =
        left >= 16 ? __mmask16{0xffff} : static_cast<__mmask16>(left > 0 ? (1u << left) - 1 : 0u);
    _mm512_storeu_ps(out + j, _mm512_maskz_loadu_ps(mask, scale + j));
  }
}

// Rows of a block: even blocks of at most `most`, of whole tiles where there are several.
inline int64_t BlockRows(int64_t rows, int64_t most) {
  if (rows <= most) return rows;
  const int64_t blocks = (rows + most - 1) / most;
  return RoundUp((rows + blocks - 1) / blocks, kTileRows);
}

}  // namespace
}  // namespace kpt::cpu::avx512_bf16

#endif  // KPT_KERNELS_GEMM_CPU_QUANT_TILE_AVX512_BF16_H_

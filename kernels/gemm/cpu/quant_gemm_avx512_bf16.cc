// 8-bit weights on AVX-512 BF16, VBMI and VNNI.
//
// Up to four rows the codes are decoded in registers between the dot instructions and nothing is
// written: the kernel runs at the speed of memory. Beyond, a slice of the panel is decoded to the
// first-level cache and used for a block of rows.
#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "kernels/base/parallel_for.h"
#include "kernels/base/scratch.h"
#include "kernels/gemm/cpu/decode_avx512_bf16.h"
#include "kernels/gemm/cpu/int8_avx512_bf16.h"
#include "kernels/gemm/cpu/quant_gemm.h"

namespace kpt::cpu::avx512_bf16 {
namespace {

constexpr int kTileRows = 6;      // 6 x 4 accumulators, 4 panel vectors, a broadcast: 29 registers
constexpr int kRegisterRows = 4;  // 4 x 4 accumulators beside the tables
constexpr int64_t kBlockRows = 240;
constexpr int64_t kEmitRows = 48;         // of Int8Gemm: their sums stay in the first-level cache
constexpr int64_t kSliceDepth = 32;       // dword rows decoded at once: 16 KiB of bf16
constexpr int64_t kInt8SliceDepth = 128;  // dword rows of 8-bit weights used at once: 32 KiB
constexpr int64_t kPrefetchBytes = 8192;

constexpr int64_t RoundUp(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// x may be aligned to its elements only.
inline __m512i Broadcast(const char* p) {
  int32_t dword;
  std::memcpy(&dword, p, 4);
  return _mm512_set1_epi32(dword);
}

inline __m512 DotBf16(__m512 sum, __m512i a, __m512i b) {
  return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
}

// sums[kRows][64] = x[kRows][4 depth] * panel. Row stride of x in bytes.
template <bool kInt8, int kRows>
void DecodeAndDot(const Decoder& decoder, const char* panel, int64_t depth, const char* x,
                  int64_t ldx, float* sums) {
  // One row: two chains an output, as four would wait for the dot's latency.
  constexpr int kChains = kRows == 1 ? 2 : 1;
  __m512 acc[kChains][kRows][4];
#pragma GCC unroll 2
  for (int h = 0; h < kChains; ++h) {
#pragma GCC unroll 4
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) acc[h][i][j] = _mm512_setzero_ps();
    }
  }
  for (int64_t g = 0; g < depth; ++g, panel += kPanelRowBytes, x += 8) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      if (kPrefetchBytes > 0) _mm_prefetch(panel + kPrefetchBytes + j * 64, _MM_HINT_T1);
      __m512i first, second;
      decoder.Decode<kInt8>(LoadBytes(panel + j * 64), &first, &second);
#pragma GCC unroll 4
      for (int i = 0; i < kRows; ++i) {
        acc[0][i][j] = DotBf16(acc[0][i][j], Broadcast(x + i * ldx), first);
        __m512& other = acc[kChains - 1][i][j];
        other = DotBf16(other, Broadcast(x + i * ldx + 4), second);
      }
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      __m512 sum = acc[0][i][j];
      if (kChains == 2) sum = _mm512_add_ps(sum, acc[kChains - 1][i][j]);
      _mm512_storeu_ps(sums + i * kPanelCols + j * 16, sum);
    }
  }
}

template <bool kInt8>
void DecodeAndDot(int rows, const Decoder& decoder, const char* panel, int64_t depth, const char* x,
                  int64_t ldx, float* sums) {
  switch (rows) {
    case 1:
      return DecodeAndDot<kInt8, 1>(decoder, panel, depth, x, ldx, sums);
    case 2:
      return DecodeAndDot<kInt8, 2>(decoder, panel, depth, x, ldx, sums);
    case 3:
      return DecodeAndDot<kInt8, 3>(decoder, panel, depth, x, ldx, sums);
    default:
      return DecodeAndDot<kInt8, 4>(decoder, panel, depth, x, ldx, sums);
  }
}

// `depth` dword rows of the panel to pairs of bf16 [2 * depth][64].
template <bool kInt8>
void DecodeSlice(const Decoder& decoder, const char* panel, int64_t depth, char* out) {
  for (int64_t g = 0; g < depth; ++g, panel += kPanelRowBytes, out += 2 * kPanelRowBytes) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      if (kPrefetchBytes > 0) _mm_prefetch(panel + kPrefetchBytes + j * 64, _MM_HINT_T1);
      __m512i first, second;
      decoder.Decode<kInt8>(LoadBytes(panel + j * 64), &first, &second);
      _mm512_storeu_si512(out + j * 64, first);
      _mm512_storeu_si512(out + kPanelRowBytes + j * 64, second);
    }
  }
}

struct Bf16Op {
  using Vec = __m512;
  static Vec Zero() { return _mm512_setzero_ps(); }
  static Vec Load(const char* p) { return _mm512_loadu_ps(p); }
  static void Store(char* p, Vec v) { _mm512_storeu_ps(p, v); }
  static Vec Dot(Vec sum, __m512i a, __m512i b) { return DotBf16(sum, a, b); }
};
struct Int8Op {
  // The type the instruction's builtin has: GCC 12 stores accumulators of type __m512i to the stack
  // after every dot.
  using Vec = __v16si;
  static Vec Of(__m512i v) { return reinterpret_cast<Vec>(v); }
  static Vec Zero() { return Of(_mm512_setzero_si512()); }
  static Vec Load(const char* p) { return Of(_mm512_loadu_si512(p)); }
  static void Store(char* p, Vec v) { _mm512_storeu_si512(p, reinterpret_cast<__m512i>(v)); }
  static Vec Dot(Vec sum, __m512i a, __m512i b) {
    return Of(_mm512_dpbusd_epi32(reinterpret_cast<__m512i>(sum), a, b));
  }
};

// sums[kRows][64] (+)= x[kRows][depth dwords] * b[depth][64].
template <class Op, int kRows>
void Tile(const char* x, int64_t ldx, const char* b, int64_t depth, bool accumulate, char* sums) {
  typename Op::Vec acc[kRows][4];
#pragma GCC unroll 6
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      acc[i][j] = accumulate ? Op::Load(sums + i * kPanelRowBytes + j * 64) : Op::Zero();
    }
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
    for (int j = 0; j < 4; ++j) Op::Store(sums + i * kPanelRowBytes + j * 64, acc[i][j]);
  }
}

template <class Op>
void Slice(const char* x, int64_t ldx, const char* b, int64_t depth, int64_t rows, bool accumulate,
           char* sums) {
  int64_t r = 0;
  for (; r + kTileRows <= rows; r += kTileRows) {
    Tile<Op, kTileRows>(x + r * ldx, ldx, b, depth, accumulate, sums + r * kPanelRowBytes);
  }
  x += r * ldx;
  sums += r * kPanelRowBytes;
  switch (rows - r) {
    case 5:
      return Tile<Op, 5>(x, ldx, b, depth, accumulate, sums);
    case 4:
      return Tile<Op, 4>(x, ldx, b, depth, accumulate, sums);
    case 3:
      return Tile<Op, 3>(x, ldx, b, depth, accumulate, sums);
    case 2:
      return Tile<Op, 2>(x, ldx, b, depth, accumulate, sums);
    case 1:
      return Tile<Op, 1>(x, ldx, b, depth, accumulate, sums);
    default:
      return;
  }
}

// Rows of x with zeros behind, as the panels have, so that whole dwords can be read.
void CopyPadded(const char* x, int64_t ldx, int64_t bytes, int64_t rows, int64_t padded,
                char* out) {
  for (int64_t r = 0; r < rows; ++r) {
    std::memcpy(out + r * padded, x + r * ldx, static_cast<size_t>(bytes));
    std::memset(out + r * padded + bytes, 0, static_cast<size_t>(padded - bytes));
  }
}

template <bool kInt8>
void WeightOnlyShare(const QuantGemm& g, const QuantShare& share, char* scratch) {
  const Decoder decoder(g.format);
  const int64_t depth = g.depth();
  const int64_t padded = depth * 8;
  const int64_t block = g.m < kBlockRows ? g.m : kBlockRows;
  char* decoded = scratch;
  char* sums = decoded + kSliceDepth * 2 * kPanelRowBytes;
  char* copy = sums + block * kPanelRowBytes;
  for (int64_t m0 = share.row_begin; m0 < share.row_end; m0 += block) {
    const int64_t rows = share.row_end - m0 < block ? share.row_end - m0 : block;
    const char* x = static_cast<const char*>(g.x) + m0 * g.ldx * 2;
    int64_t ldx = g.ldx * 2;
    if (padded != g.k * 2) {
      CopyPadded(x, ldx, g.k * 2, rows, padded, copy);
      x = copy;
      ldx = padded;
    }
    for (int64_t p = share.panel_begin; p < share.panel_end; ++p) {
      const char* panel = g.panel(p);
      if (depth == 0) std::memset(sums, 0, static_cast<size_t>(rows * kPanelRowBytes));
      if (g.m <= kRegisterRows) {
        DecodeAndDot<kInt8>(static_cast<int>(rows), decoder, panel, depth, x, ldx,
                            reinterpret_cast<float*>(sums));
      } else {
        for (int64_t k0 = 0; k0 < depth; k0 += kSliceDepth) {
          const int64_t n = depth - k0 < kSliceDepth ? depth - k0 : kSliceDepth;
          DecodeSlice<kInt8>(decoder, panel + k0 * kPanelRowBytes, n, decoded);
          Slice<Bf16Op>(x + k0 * 8, ldx, decoded, 2 * n, rows, k0 > 0, sums);
        }
      }
      EmitBlock<false, 4>(g.epilogue, sums, {}, m0, rows, p * kPanelCols, g.panel_cols(p));
    }
  }
}

}  // namespace

bool WeightOnlyGemm(int num_threads, const QuantGemm& g) {
  const int64_t block = g.m < kBlockRows ? g.m : kBlockRows;
  const int64_t padded = g.depth() * 8;
  const int64_t bytes = kSliceDepth * 2 * kPanelRowBytes + block * kPanelRowBytes +
                        (padded != g.k * 2 ? RoundUp(block * padded, 64) : 0);
  char* scratch = ScratchAs<char>(1, static_cast<size_t>(bytes * num_threads));
  if (scratch == nullptr) return false;
  Parallel(num_threads, [&](int thread, int threads) {
    // Few rows are not worth splitting: every share would read all weights.
    const int64_t unit = g.m <= kRegisterRows ? kRegisterRows : kTileRows;
    const QuantShare share = ShareOf(thread, threads, g.m, unit, g.panel_count(), 1);
    char* own = scratch + bytes * thread;
    if (g.format == PackFormat::kInt8) {
      WeightOnlyShare<true>(g, share, own);
    } else {
      WeightOnlyShare<false>(g, share, own);
    }
  });
  return true;
}

bool Int8Gemm(int num_threads, const QuantGemm& g) {
  const int64_t block = g.m < kBlockRows ? g.m : kBlockRows;
  const int64_t depth = g.depth();
  const int64_t ldu = depth * 4 + 64;  // no power of two: rows spread over the cache's sets
  const int64_t bytes =
      RoundUp(block * ldu, 64) + kEmitRows * kPanelRowBytes + RoundUp(block * 8, 64);
  char* scratch = ScratchAs<char>(1, static_cast<size_t>(bytes * num_threads));
  if (scratch == nullptr) return false;
  Parallel(num_threads, [&](int thread, int threads) {
    const QuantShare share = ShareOf(thread, threads, g.m, kTileRows, g.panel_count(), 1);
    char* u = scratch + bytes * thread;
    char* dots = u + RoundUp(block * ldu, 64);
    float* s = reinterpret_cast<float*>(dots + kEmitRows * kPanelRowBytes);
    int32_t* z = reinterpret_cast<int32_t*>(s + block);
    if (share.panel_begin == share.panel_end) return;
    for (int64_t m0 = share.row_begin; m0 < share.row_end; m0 += block) {
      const int64_t rows = share.row_end - m0 < block ? share.row_end - m0 : block;
      QuantizeAnyRows(g, m0, rows, reinterpret_cast<uint8_t*>(u), ldu, s, z);
      for (int64_t p = share.panel_begin; p < share.panel_end; ++p) {
        for (int64_t r = 0; r < rows; r += kEmitRows) {
          const int64_t some = rows - r < kEmitRows ? rows - r : kEmitRows;
          if (depth == 0) std::memset(dots, 0, static_cast<size_t>(some * kPanelRowBytes));
          for (int64_t k0 = 0; k0 < depth; k0 += kInt8SliceDepth) {
            const int64_t n = depth - k0 < kInt8SliceDepth ? depth - k0 : kInt8SliceDepth;
            Slice<Int8Op>(u + r * ldu + k0 * 4, ldu, g.panel(p) + k0 * kPanelRowBytes, n, some,
                          k0 > 0, dots);
          }
          EmitBlock<true, 4>(g.epilogue, dots, {s + r, z + r, g.column_sums(p)}, m0 + r, some,
                             p * kPanelCols, g.panel_cols(p));
        }
      }
    }
  });
  return true;
}

}  // namespace kpt::cpu::avx512_bf16

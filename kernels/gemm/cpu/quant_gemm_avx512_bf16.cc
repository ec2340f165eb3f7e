// Weights of 8 and 4 bits on AVX-512 BF16, VBMI and VNNI.
//
// Weight-only: K is cut into slices. The first rows of x, at most four, multiply a slice while it
// is decoded in registers: with no more rows nothing is written, and the kernel runs at the speed
// of memory. With more the decoded slice goes to the first-level cache for them. The sums of a
// slice are added to those of the slices before, times the scale of its group in int4: every row is
// summed in the same order, whatever M is.
#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "kernels/base/parallel_for.h"
#include "kernels/base/scratch.h"
#include "kernels/gemm/cpu/decode_avx512_bf16.h"
#include "kernels/gemm/cpu/int8_avx512_bf16.h"
#include "kernels/gemm/cpu/quant_gemm.h"
#include "kernels/gemm/cpu/quant_tile_avx512_bf16.h"

namespace kpt::cpu::avx512_bf16 {
namespace {

constexpr int kRegisterRows = 4;  // 4 x 4 accumulators beside the tables
constexpr int64_t kBlockRows = 240;
constexpr int64_t kEmitRows = 48;         // of Int8Gemm: their sums stay in the first-level cache
constexpr int64_t kInt8SliceDepth = 128;  // dword rows of 8-bit weights used at once: 32 KiB

// Decoders: Decode makes kPairs vectors of bf16 pairs of 64 bytes; Zeros are those of outputs 16 j
// to 16 j + 15 of a panel.
template <bool kInt8>
struct EightBits {
  static constexpr int kPairs = 2;
  Decoder decoder;

  explicit EightBits(PackFormat format) : decoder(format) {}
  static __m512i Zeros(const uint8_t*, int) { return _mm512_setzero_si512(); }
  void Decode(__m512i codes, __m512i, __m512i* pairs) const {
    decoder.Decode<kInt8>(codes, &pairs[0], &pairs[1]);
  }
};
template <bool kZeroPoints>
struct FourBits {
  static constexpr int kPairs = 4;
  Int4Decoder<kZeroPoints> decoder;

  explicit FourBits(PackFormat) {}
  static __m512i Zeros(const uint8_t* zeros, int j) {
    return kZeroPoints ? SpreadZeros(zeros + j * 16) : _mm512_setzero_si512();
  }
  void Decode(__m512i codes, __m512i zero, __m512i* pairs) const {
    decoder.Decode(codes, zero, pairs);
  }
};

// A slice of a panel: dword rows, and what its sums are multiplied by.
struct WeightSlice {
  const char* panel;
  int64_t depth;
  const uint8_t* zeros;
  const float* scale;
};

// The sums of kRows rows of x gain x * slice; the decoded slice is left in `decoded` when kStore.
template <class Decoder, int kRows, bool kStore>
void DecodeAndDot(const Decoder& decoder, const WeightSlice& slice, const char* x, int64_t ldx,
                  char* decoded, float* sums) {
  constexpr int kPairs = Decoder::kPairs;
  __m512 acc[kRows][4];
  __m512i zero[4];
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    zero[j] = Decoder::Zeros(slice.zeros, j);
#pragma GCC unroll 4
    for (int i = 0; i < kRows; ++i) acc[i][j] = _mm512_setzero_ps();
  }
  const char* panel = slice.panel;
  for (int64_t g = 0; g < slice.depth; ++g, panel += kPanelRowBytes, x += kPairs * 4) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      _mm_prefetch(panel + kPrefetchBytes + j * 64, _MM_HINT_T1);
      __m512i pairs[kPairs];
      decoder.Decode(LoadBytes(panel + j * 64), zero[j], pairs);
#pragma GCC unroll 4
      for (int q = 0; q < kPairs; ++q) {
        if (kStore) _mm512_storeu_si512(decoded + q * kPanelRowBytes + j * 64, pairs[q]);
#pragma GCC unroll 4
        for (int i = 0; i < kRows; ++i) {
          acc[i][j] = DotBf16(acc[i][j], Broadcast(x + i * ldx + q * 4), pairs[q]);
        }
      }
    }
    if (kStore) decoded += kPairs * kPanelRowBytes;
  }
  const AddScaled finish = {sums, slice.scale};
#pragma GCC unroll 4
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) finish(i, j, acc[i][j]);
  }
}

template <class Decoder, bool kStore>
void DecodeAndDot(int64_t rows, const Decoder& decoder, const WeightSlice& slice, const char* x,
                  int64_t ldx, char* decoded, float* sums) {
  switch (rows) {
    case 1:
      return DecodeAndDot<Decoder, 1, kStore>(decoder, slice, x, ldx, decoded, sums);
    case 2:
      return DecodeAndDot<Decoder, 2, kStore>(decoder, slice, x, ldx, decoded, sums);
    case 3:
      return DecodeAndDot<Decoder, 3, kStore>(decoder, slice, x, ldx, decoded, sums);
    default:
      return DecodeAndDot<Decoder, 4, kStore>(decoder, slice, x, ldx, decoded, sums);
  }
}

// Rows that multiply a slice while it is decoded: few enough for the registers, and such that the
// others are whole tiles if possible.
int64_t FirstRows(int64_t rows) {
  if (rows <= kRegisterRows) return rows;
  const int64_t rest = rows % kTileRows;
  return rest >= 1 && rest <= kRegisterRows ? rest : kRegisterRows;
}

struct WeightOnlyScratch {
  int64_t block, slice_bytes, slices, copy_bytes, decoded_bytes, bytes;
  bool packs;

  explicit WeightOnlyScratch(const QuantGemm& g) {
    const int64_t inputs = SliceInputs(g);
    block = BlockRows(g.m, kBlockRows);
    slice_bytes = inputs * 2;
    slices = (g.k + inputs - 1) / inputs;
    packs = g.m > kRegisterRows || g.k % inputs != 0;
    copy_bytes = packs ? block * slices * slice_bytes : 0;
    decoded_bytes = g.m > kRegisterRows ? inputs / 2 * kPanelRowBytes : 0;
    bytes = RoundUp(copy_bytes + decoded_bytes + block * kPanelRowBytes, 4096);
  }
};

template <class Decoder>
void WeightOnlyShare(const QuantGemm& g, const QuantShare& share, const WeightOnlyScratch& w,
                     char* scratch) {
  const Decoder decoder(g.format);
  const int64_t depth = g.depth();
  const int64_t inputs = SliceInputs(g);
  const int64_t slice_depth = inputs / g.per_dword();
  char* decoded = scratch;
  float* sums = reinterpret_cast<float*>(decoded + w.decoded_bytes);
  char* copy = reinterpret_cast<char*>(sums) + w.block * kPanelRowBytes;
  alignas(64) float scale[kPanelCols];
  for (float& s : scale) s = 1.0f;
  for (int64_t m0 = share.row_begin; m0 < share.row_end; m0 += w.block) {
    const int64_t rows = share.row_end - m0 < w.block ? share.row_end - m0 : w.block;
    const int64_t first = FirstRows(rows);
    const char* x = static_cast<const char*>(g.x) + m0 * g.ldx * 2;
    int64_t ldx = g.ldx * 2;
    int64_t x_step = w.slice_bytes;
    if (w.packs && share.panel_begin < share.panel_end) {
      PackSlices(x, ldx, g.k * 2, rows, w.slice_bytes, w.slices, copy);
      x = copy;
      ldx = w.slice_bytes;
      x_step = rows * w.slice_bytes;
    }
    for (int64_t p = share.panel_begin; p < share.panel_end; ++p) {
      std::memset(sums, 0, static_cast<size_t>(rows * kPanelRowBytes));
      for (int64_t s = 0; s < w.slices; ++s) {
        const int64_t begin = s * slice_depth;
        WeightSlice slice = {g.panel(p) + begin * kPanelRowBytes, depth - begin, nullptr, scale};
        if (slice.depth > slice_depth) slice.depth = slice_depth;
        if (Decoder::kPairs == 4) {
          const int64_t group = g.group_of(s * inputs);
          LoadScale(g, p, group, scale);
          if (g.zero_points) slice.zeros = g.zeros(p, group);
        }
        const char* xs = x + s * x_step;
        if (rows == first) {
          DecodeAndDot<Decoder, false>(first, decoder, slice, xs, ldx, nullptr, sums);
          continue;
        }
        DecodeAndDot<Decoder, true>(first, decoder, slice, xs, ldx, decoded, sums);
        Slice<Bf16Op>(xs, ldx, decoded, slice.depth * Decoder::kPairs, first, rows,
                      AddScaled{sums, scale});
      }
      EmitBlock<false, 4>(g.epilogue, reinterpret_cast<char*>(sums), {}, m0, rows, p * kPanelCols,
                          g.panel_cols(p));
    }
  }
}

// int8 sums, over all slices.
struct AddExact {
  char* dots;
  bool first;

  void operator()(int64_t row, int j, __v16si v) const {
    char* at = dots + row * kPanelRowBytes + j * 64;
    __m512i sum = reinterpret_cast<__m512i>(v);
    if (!first) sum = _mm512_add_epi32(sum, _mm512_loadu_si512(at));
    _mm512_storeu_si512(at, sum);
  }
};

}  // namespace

bool WeightOnlyGemm(int num_threads, const QuantGemm& g) {
  const WeightOnlyScratch w(g);
  char* scratch = ScratchAs<char>(1, static_cast<size_t>(w.bytes * num_threads));
  if (scratch == nullptr) return false;
  auto* run = WeightOnlyShare<EightBits<false>>;
  if (g.format == PackFormat::kInt8) run = WeightOnlyShare<EightBits<true>>;
  if (g.format == PackFormat::kInt4) {
    run = g.zero_points ? WeightOnlyShare<FourBits<true>> : WeightOnlyShare<FourBits<false>>;
  }
  Parallel(num_threads, [&](int thread, int threads) {
    // Few rows are not worth splitting: every share would read all weights.
    const int64_t unit = g.m <= kRegisterRows ? kRegisterRows : kTileRows;
    run(g, ShareOf(thread, threads, g.m, unit, g.panel_count(), 1), w, scratch + w.bytes * thread);
  });
  return true;
}

bool Int8Gemm(int num_threads, const QuantGemm& g) {
  if (g.format == PackFormat::kInt4) return Int4x8Gemm(num_threads, g);
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
            Slice<Int8Op>(u + r * ldu + k0 * 4, ldu, g.panel(p) + k0 * kPanelRowBytes, n, 0, some,
                          AddExact{dots, k0 == 0});
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

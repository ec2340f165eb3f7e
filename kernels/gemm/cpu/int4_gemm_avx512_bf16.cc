// int4 weights times int8 activations on AVX-512 VNNI: a slice of the panel, inputs of one group,
// is unpacked to int8 in the first-level cache for a block of rows. Its sums are exact integers;
// those of the groups are added in float, times their scales.
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

constexpr int64_t kBlockRows = 96;     // their sums, 24 KiB, share a cache with a slice
constexpr int64_t kQuantizedRows = 8;  // at once, before they are cut into slices

// `depth` dword rows of int4 to 2 * depth of int8, and minus the sums of the columns, as the dot
// instruction takes them with (zero point, 0): in the low half of a dword.
template <bool kZeroPoints>
void UnpackSlice(const char* panel, int64_t depth, const uint8_t* zeros, char* out,
                 __m512i* minus) {
  alignas(64) int8_t values[64];
  for (int i = 0; i < 64; ++i) values[i] = static_cast<int8_t>((i % 16 ^ 8) - 8);
  const __m512i table = _mm512_load_si512(values);
  const __m512i ones = _mm512_set1_epi8(1);
  __m512i zero[4], sums[4];
  for (int j = 0; j < 4; ++j) {
    zero[j] = kZeroPoints ? SpreadZeros(zeros + j * 16) : _mm512_setzero_si512();
    sums[j] = _mm512_setzero_si512();
  }
  for (int64_t g = 0; g < depth; ++g, panel += kPanelRowBytes, out += 2 * kPanelRowBytes) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      _mm_prefetch(panel + kPrefetchBytes + j * 64, _MM_HINT_T1);
      const __m512i codes = LoadBytes(panel + j * 64);
      __m512i first, last;
      if constexpr (kZeroPoints) {
        SubtractZeros(codes, zero[j], &first, &last);
      } else {  // vpermb reads 6 index bits: the table has period 16
        first = _mm512_permutexvar_epi8(codes, table);
        last = _mm512_permutexvar_epi8(_mm512_srli_epi16(codes, 4), table);
      }
      _mm512_storeu_si512(out + j * 64, first);
      _mm512_storeu_si512(out + kPanelRowBytes + j * 64, last);
      sums[j] = _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(sums[j], ones, first), ones, last);
    }
  }
  // Of at most 128 inputs, so 16 bits hold them.
  for (int j = 0; j < 4; ++j) {
    minus[j] = _mm512_and_si512(_mm512_sub_epi32(_mm512_setzero_si512(), sums[j]),
                                _mm512_set1_epi32(0xffff));
  }
}

struct AddDequantized {
  AddScaled add;
  const int32_t* z;      // of the rows
  const __m512i* minus;  // [4]

  void operator()(int64_t row, int j, __v16si v) const {
    const __m512i dot =
        _mm512_dpwssd_epi32(reinterpret_cast<__m512i>(v), _mm512_set1_epi32(z[row]), minus[j]);
    add(row, j, _mm512_cvtepi32_ps(dot));
  }
};

struct Int4Scratch {
  int64_t block, inputs, slices, padded, copy_bytes, decoded_bytes, bytes;

  explicit Int4Scratch(const QuantGemm& g) {
    inputs = SliceInputs(g);
    block = BlockRows(g.m, kBlockRows);
    slices = (g.k + inputs - 1) / inputs;
    padded = g.depth() * g.per_dword();
    copy_bytes = RoundUp(block * slices * inputs, 64);
    decoded_bytes = inputs * kPanelCols;
    bytes = RoundUp(
        decoded_bytes + block * (kPanelRowBytes + 8) + copy_bytes + kQuantizedRows * padded, 4096);
  }
};

template <bool kZeroPoints>
void Share(const QuantGemm& g, const QuantShare& share, const Int4Scratch& w, char* scratch) {
  if (share.panel_begin == share.panel_end) return;
  const int64_t slice_depth = w.inputs / g.per_dword();
  char* decoded = scratch;
  float* sums = reinterpret_cast<float*>(decoded + w.decoded_bytes);
  char* u = reinterpret_cast<char*>(sums) + w.block * kPanelRowBytes;
  char* quantized = u + w.copy_bytes;
  float* s = reinterpret_cast<float*>(quantized + kQuantizedRows * w.padded);
  int32_t* z = reinterpret_cast<int32_t*>(s + w.block);
  for (int64_t m0 = share.row_begin; m0 < share.row_end; m0 += w.block) {
    const int64_t rows = share.row_end - m0 < w.block ? share.row_end - m0 : w.block;
    for (int64_t r = 0; r < rows; r += kQuantizedRows) {
      const int64_t some = rows - r < kQuantizedRows ? rows - r : kQuantizedRows;
      QuantizeAnyRows(g, m0 + r, some, reinterpret_cast<uint8_t*>(quantized), w.padded, s + r,
                      z + r);
      for (int64_t i = 0; i < w.slices; ++i) {
        for (int64_t q = 0; q < some; ++q) {
          std::memcpy(u + (i * rows + r + q) * w.inputs, quantized + q * w.padded + i * w.inputs,
                      static_cast<size_t>(w.inputs));
        }
      }
    }
    for (int64_t p = share.panel_begin; p < share.panel_end; ++p) {
      std::memset(sums, 0, static_cast<size_t>(rows * kPanelRowBytes));
      for (int64_t i = 0; i < w.slices; ++i) {
        const int64_t group = g.group_of(i * w.inputs);
        alignas(64) float scale[kPanelCols];
        __m512i minus[4];
        LoadScale(g, p, group, scale);
        UnpackSlice<kZeroPoints>(g.panel(p) + i * slice_depth * kPanelRowBytes, slice_depth,
                                 kZeroPoints ? g.zeros(p, group) : nullptr, decoded, minus);
        Slice<Int8Op>(u + i * rows * w.inputs, w.inputs, decoded, 2 * slice_depth, 0, rows,
                      AddDequantized{{sums, scale}, z, minus});
      }
      for (int64_t r = 0; r < rows; ++r) {
        const __m512 factor = _mm512_set1_ps(s[r]);
        for (int64_t j = 0; j < kPanelCols; j += 16) {
          float* at = sums + r * kPanelCols + j;
          _mm512_storeu_ps(at, _mm512_mul_ps(_mm512_loadu_ps(at), factor));
        }
      }
      EmitBlock<false, 4>(g.epilogue, reinterpret_cast<char*>(sums), {}, m0, rows, p * kPanelCols,
                          g.panel_cols(p));
    }
  }
}

}  // namespace

bool Int4x8Gemm(int num_threads, const QuantGemm& g) {
  const Int4Scratch w(g);
  char* scratch = ScratchAs<char>(1, static_cast<size_t>(w.bytes * num_threads));
  if (scratch == nullptr) return false;
  Parallel(num_threads, [&](int thread, int threads) {
    (g.zero_points ? Share<true>
                   : Share<false>)(g, ShareOf(thread, threads, g.m, kTileRows, g.panel_count(), 1),
                                   w, scratch + w.bytes * thread);
  });
  return true;
}

}  // namespace kpt::cpu::avx512_bf16

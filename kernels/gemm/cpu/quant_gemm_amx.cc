// 8-bit weights on AMX tiles.
//
// Weight-only: codes are decoded to bf16 tiles. Up to 16 rows the tiles multiply one slice while
// the next one is decoded, so that the kernel runs at the speed of memory; up to kSliceRows a slice
// is used for all rows while it is in the first-level cache; beyond, whole panels are decoded, as
// many as fit in half of the second-level cache. int8: the panel is read in place.
#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "kernels/base/amx_tiles.h"
#include "kernels/base/parallel_for.h"
#include "kernels/base/scratch.h"
#include "kernels/gemm/cpu/decode_avx512_bf16.h"
#include "kernels/gemm/cpu/int8_avx512_bf16.h"
#include "kernels/gemm/cpu/quant_gemm.h"

namespace kpt::cpu::amx {
namespace {

constexpr int64_t kTileRows = 16;   // rows of an A or C tile
constexpr int64_t kStepDepth = 16;  // dword rows of a B tile
constexpr int64_t kStepBytes = kStepDepth * kPanelRowBytes;
constexpr int64_t kBlockRows = 2 * kTileRows;  // rows of a 2 x 2 block of C tiles
constexpr int64_t kInt8Rows = 8 * kBlockRows;  // rows quantized at once
constexpr int64_t kFewDepth = 16;    // dword rows decoded ahead for few rows: 8 KiB of bf16
constexpr int64_t kSliceDepth = 32;  // and at once for more rows
constexpr int64_t kSliceRows = 128;
constexpr int64_t kGroupBytes = 1 << 20;  // decoded panels
constexpr int64_t kPrefetchBytes = 8192;

constexpr int64_t RoundUp(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

#define KPT_TILE_DOT(c, a, b)  \
  do {                         \
    if constexpr (kInt8) {     \
      _tile_dpbusd(c, a, b);   \
    } else {                   \
      _tile_dpbf16ps(c, a, b); \
    }                          \
  } while (false)

inline void ZeroSums() {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
}

// The C tiles 0..3, 32 rows x 32 columns, gain a[32][depth dwords] * b[depth][32].
template <bool kInt8>
inline void Steps2x2(const char* a, int64_t lda, const char* b, int64_t depth) {
  const char* a1 = a + kTileRows * lda;
  for (int64_t g = 0; g < depth; g += kStepDepth, a += 64, a1 += 64, b += kStepBytes) {
    _tile_loadd(4, a, lda);
    _tile_loadd(6, b, kPanelRowBytes);
    _tile_loadd(7, b + 64, kPanelRowBytes);
    KPT_TILE_DOT(0, 4, 6);
    _tile_loadd(5, a1, lda);
    KPT_TILE_DOT(1, 4, 7);
    KPT_TILE_DOT(2, 5, 6);
    KPT_TILE_DOT(3, 5, 7);
  }
}

inline void Store2x2(char* sums) {
  _tile_stored(0, sums, kPanelRowBytes);
  _tile_stored(1, sums + 64, kPanelRowBytes);
  _tile_stored(2, sums + kTileRows * kPanelRowBytes, kPanelRowBytes);
  _tile_stored(3, sums + kTileRows * kPanelRowBytes + 64, kPanelRowBytes);
}

inline void Load2x2(const char* sums) {
  _tile_loadd(0, sums, kPanelRowBytes);
  _tile_loadd(1, sums + 64, kPanelRowBytes);
  _tile_loadd(2, sums + kTileRows * kPanelRowBytes, kPanelRowBytes);
  _tile_loadd(3, sums + kTileRows * kPanelRowBytes + 64, kPanelRowBytes);
}

// The C tiles 0..3, 16 rows x 64 columns, gain a[16][16 dwords] * b[16][64]. between(i), i = 0..3,
// is other work to be done while the tiles multiply.
template <bool kInt8, class Between>
inline void Step1x4(const char* a, int64_t lda, const char* b, const Between& between) {
  _tile_loadd(4, a, lda);
  _tile_loadd(5, b, kPanelRowBytes);
  KPT_TILE_DOT(0, 4, 5);
  between(0);
  _tile_loadd(6, b + 64, kPanelRowBytes);
  KPT_TILE_DOT(1, 4, 6);
  between(1);
  _tile_loadd(7, b + 128, kPanelRowBytes);
  KPT_TILE_DOT(2, 4, 7);
  between(2);
  _tile_loadd(5, b + 192, kPanelRowBytes);
  KPT_TILE_DOT(3, 4, 5);
  between(3);
}

#undef KPT_TILE_DOT

inline void StoreSums(char* sums) {
  _tile_stored(0, sums, kPanelRowBytes);
  _tile_stored(1, sums + 64, kPanelRowBytes);
  _tile_stored(2, sums + 128, kPanelRowBytes);
  _tile_stored(3, sums + 192, kPanelRowBytes);
}

template <bool kInt8>
inline void DecodeRow(const Decoder& decoder, const char* panel, char* out) {
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    if (kPrefetchBytes > 0) _mm_prefetch(panel + kPrefetchBytes + j * 64, _MM_HINT_T1);
    __m512i first, second;
    decoder.Decode<kInt8>(LoadBytes(panel + j * 64), &first, &second);
    _mm512_store_si512(out + j * 64, first);
    _mm512_store_si512(out + kPanelRowBytes + j * 64, second);
  }
}

template <bool kInt8>
void DecodeSlice(const Decoder& decoder, const char* panel, int64_t depth, char* out) {
  for (int64_t g = 0; g < depth; ++g, panel += kPanelRowBytes, out += 2 * kPanelRowBytes) {
    DecodeRow<kInt8>(decoder, panel, out);
  }
}

// At most 16 rows: sums[16][64] = a * decode(panel).
template <bool kInt8>
void DecodeAndDot(const Decoder& decoder, const char* panel, int64_t depth, const char* a,
                  int64_t lda, char* buffers, char* sums) {
  constexpr int64_t kBuffer = 2 * kFewDepth * kPanelRowBytes;
  ZeroSums();
  if (depth > 0) DecodeSlice<kInt8>(decoder, panel, kFewDepth, buffers);
  for (int64_t k0 = 0; k0 < depth; k0 += kFewDepth) {
    const char* now = buffers + k0 / kFewDepth % 2 * kBuffer;
    char* next = buffers + (k0 / kFewDepth + 1) % 2 * kBuffer;
    const char* ahead = panel + (k0 + kFewDepth) * kPanelRowBytes;
    const bool more = k0 + kFewDepth < depth;
    const auto decode = [&](int part) {  // two dword rows
      if (!more) return;
      DecodeRow<kInt8>(decoder, ahead + 2 * part * kPanelRowBytes,
                       next + 4 * part * kPanelRowBytes);
      DecodeRow<kInt8>(decoder, ahead + (2 * part + 1) * kPanelRowBytes,
                       next + (4 * part + 2) * kPanelRowBytes);
    };
    TileFence();
    Step1x4<false>(a + k0 * 8, lda, now, [&](int i) { decode(i); });
    Step1x4<false>(a + k0 * 8 + 64, lda, now + kStepBytes, [&](int i) { decode(4 + i); });
  }
  StoreSums(sums);
}

// Rows of x, zero filled to `padded` bytes and to `all` rows.
void CopyPadded(const char* x, int64_t ldx, int64_t bytes, int64_t rows, int64_t padded,
                int64_t all, char* out, int64_t ldo) {
  for (int64_t r = 0; r < rows; ++r) {
    std::memcpy(out + r * ldo, x + r * ldx, static_cast<size_t>(bytes));
    std::memset(out + r * ldo + bytes, 0, static_cast<size_t>(padded - bytes));
  }
  for (int64_t r = rows; r < all; ++r) {
    std::memset(out + r * ldo, 0, static_cast<size_t>(padded));
  }
}

// A block of 32 columns whose sums are complete but not yet written to y.
template <bool kInt8>
struct Finished {
  const QuantGemm* g = nullptr;
  char* sums = nullptr;
  const float* s = nullptr;
  const int32_t* z = nullptr;
  int64_t m0 = 0;
  int64_t rows = 0;
  int64_t panel = 0;
  int half = 0;

  void Emit() const {
    if (g == nullptr) return;
    const int64_t at = half * 32;
    Int8Ends ends = {s, z, nullptr};
    if (kInt8) ends.column_sums = g->column_sums(panel) + at;
    EmitBlock<kInt8, 2>(g->epilogue, sums, ends, m0, rows, panel * kPanelCols + at,
                        g->panel_cols(panel) - at);
  }
};

struct WeightOnlyScratch {
  int64_t padded, ld_copy, group, decoded_bytes, sum_rows, copy_rows, copy_bytes, bytes;

  explicit WeightOnlyScratch(const QuantGemm& g) {
    padded = g.depth() * 8;
    ld_copy = padded + 64;  // no power of two: rows spread over the cache's sets
    const int64_t panel = padded * kPanelCols;
    group = panel > 0 ? kGroupBytes / panel : 1;
    if (group < 1) group = 1;
    decoded_bytes = g.m <= kTileRows    ? 4 * kFewDepth * kPanelRowBytes
                    : g.m <= kSliceRows ? 2 * kSliceDepth * kPanelRowBytes
                                        : group * panel;
    sum_rows = g.m <= kSliceRows ? RoundUp(g.m, kBlockRows) : kBlockRows;
    copy_rows = g.m <= kTileRows ? kTileRows : sum_rows;
    copy_bytes = copy_rows * ld_copy;
    bytes = RoundUp(copy_bytes + decoded_bytes + sum_rows * kPanelRowBytes, 4096);
  }
};

template <bool kInt8>
void FewRows(const QuantGemm& g, const QuantShare& share, const WeightOnlyScratch& w,
             char* scratch) {
  const Decoder decoder(g.format);
  const AmxTiles tiles;
  char* decoded = scratch;
  char* sums = decoded + w.decoded_bytes;
  char* copy = sums + w.sum_rows * kPanelRowBytes;
  CopyPadded(static_cast<const char*>(g.x), g.ldx * 2, g.k * 2, g.m, w.padded, kTileRows, copy,
             w.ld_copy);
  for (int64_t p = share.panel_begin; p < share.panel_end; ++p) {
    DecodeAndDot<kInt8>(decoder, g.panel(p), g.depth(), copy, w.ld_copy, decoded, sums);
    EmitBlock<false, 4>(g.epilogue, sums, {}, 0, g.m, p * kPanelCols, g.panel_cols(p));
  }
}

// Up to kSliceRows: every row block uses a slice before the next one is decoded.
template <bool kInt8>
void SomeRows(const QuantGemm& g, const QuantShare& share, const WeightOnlyScratch& w,
              char* scratch) {
  const Decoder decoder(g.format);
  const AmxTiles tiles;
  const int64_t depth = g.depth();
  char* decoded = scratch;
  char* sums = decoded + w.decoded_bytes;
  char* copy = sums + w.sum_rows * kPanelRowBytes;
  const int64_t rows = share.row_end - share.row_begin;
  const int64_t all = RoundUp(rows, kBlockRows);
  CopyPadded(static_cast<const char*>(g.x) + share.row_begin * g.ldx * 2, g.ldx * 2, g.k * 2, rows,
             w.padded, all, copy, w.ld_copy);
  for (int64_t p = share.panel_begin; p < share.panel_end; ++p) {
    const char* panel = g.panel(p);
    if (depth == 0) std::memset(sums, 0, static_cast<size_t>(all * kPanelRowBytes));
    for (int64_t k0 = 0; k0 < depth; k0 += kSliceDepth) {
      const int64_t n = depth - k0 < kSliceDepth ? depth - k0 : kSliceDepth;
      DecodeSlice<kInt8>(decoder, panel + k0 * kPanelRowBytes, n, decoded);
      TileFence();
      for (int64_t r = 0; r < all; r += kBlockRows) {
        for (int half = 0; half < 2; ++half) {
          char* c = sums + r * kPanelRowBytes + half * 128;
          if (k0 == 0) {
            ZeroSums();
          } else {
            Load2x2(c);
          }
          Steps2x2<false>(copy + r * w.ld_copy + k0 * 8, w.ld_copy, decoded + half * 128, 2 * n);
          Store2x2(c);
        }
      }
    }
    EmitBlock<false, 4>(g.epilogue, sums, {}, share.row_begin, rows, p * kPanelCols,
                        g.panel_cols(p));
  }
}

template <bool kInt8>
void ManyRows(const QuantGemm& g, const QuantShare& share, const WeightOnlyScratch& w,
              char* scratch) {
  const Decoder decoder(g.format);
  const AmxTiles tiles;
  const int64_t depth = g.depth();
  char* decoded = scratch;
  char* sums = decoded + w.decoded_bytes;
  char* copy = sums + w.sum_rows * kPanelRowBytes;
  Finished<false> done;
  for (int64_t p0 = share.panel_begin; p0 < share.panel_end; p0 += w.group) {
    const int64_t p1 = p0 + w.group < share.panel_end ? p0 + w.group : share.panel_end;
    for (int64_t p = p0; p < p1; ++p) {
      DecodeSlice<kInt8>(decoder, g.panel(p), depth, decoded + (p - p0) * w.padded * kPanelCols);
    }
    for (int64_t m0 = share.row_begin; m0 < share.row_end; m0 += kBlockRows) {
      const int64_t rows = share.row_end - m0 < kBlockRows ? share.row_end - m0 : kBlockRows;
      const char* x = static_cast<const char*>(g.x) + m0 * g.ldx * 2;
      int64_t ldx = g.ldx * 2;
      if (rows < kBlockRows || w.padded != g.k * 2) {
        CopyPadded(x, ldx, g.k * 2, rows, w.padded, kBlockRows, copy, w.ld_copy);
        x = copy;
        ldx = w.ld_copy;
      }
      for (int64_t p = p0; p < p1; ++p) {
        const char* b = decoded + (p - p0) * w.padded * kPanelCols;
        for (int half = 0; half < 2; ++half) {
          TileFence();
          ZeroSums();
          Steps2x2<false>(x, ldx, b + half * 128, 2 * depth);
          // The sums of the block before are written out while the tiles multiply this one.
          done.Emit();
          Store2x2(sums);
          done = {&g, sums, nullptr, nullptr, m0, rows, p, half};
        }
      }
    }
  }
  done.Emit();
}

// 16 rows, int8: sums[16][64] = a * panel, read ahead from memory.
void DotInt8(const char* a, int64_t lda, const char* panel, int64_t depth, char* sums) {
  TileFence();
  ZeroSums();
  for (int64_t g = 0; g < depth; g += kStepDepth, a += 64, panel += kStepBytes) {
    Step1x4<true>(a, lda, panel, [&](int i) {
      for (int64_t j = 0; j < kStepBytes / 4; j += 64) {
        _mm_prefetch(panel + kPrefetchBytes + i * kStepBytes / 4 + j, _MM_HINT_T1);
      }
    });
  }
  StoreSums(sums);
}

}  // namespace

bool WeightOnlyGemm(int num_threads, const QuantGemm& g) {
  const WeightOnlyScratch w(g);
  char* scratch = ScratchAs<char>(1, static_cast<size_t>(w.bytes * num_threads));
  if (scratch == nullptr) return false;
  const bool int8 = g.format == PackFormat::kInt8;
  Parallel(num_threads, [&](int thread, int threads) {
    const bool few = g.m <= kTileRows;
    const QuantShare share =
        ShareOf(thread, threads, g.m, few ? kTileRows : kBlockRows, g.panel_count(), 1);
    if (share.row_begin >= share.row_end || share.panel_begin == share.panel_end) return;
    char* own = scratch + w.bytes * thread;
    if (few) {
      (int8 ? FewRows<true> : FewRows<false>)(g, share, w, own);
    } else if (g.m <= kSliceRows) {
      (int8 ? SomeRows<true> : SomeRows<false>)(g, share, w, own);
    } else {
      (int8 ? ManyRows<true> : ManyRows<false>)(g, share, w, own);
    }
  });
  return true;
}

bool Int8Gemm(int num_threads, const QuantGemm& g) {
  const int64_t depth = g.depth();
  const int64_t ldu = depth * 4 + 64;  // no power of two: rows spread over the cache's sets
  const int64_t block =
      g.m <= kTileRows ? kTileRows : (g.m < kInt8Rows ? RoundUp(g.m, kBlockRows) : kInt8Rows);
  const int64_t bytes = RoundUp(block * ldu + kBlockRows * kPanelRowBytes + block * 8, 4096);
  char* scratch = ScratchAs<char>(1, static_cast<size_t>(bytes * num_threads));
  if (scratch == nullptr) return false;
  Parallel(num_threads, [&](int thread, int threads) {
    const int64_t unit = g.m <= kTileRows ? kTileRows : kBlockRows;
    const QuantShare share = ShareOf(thread, threads, g.m, unit, g.panel_count(), 1);
    if (share.row_begin >= share.row_end || share.panel_begin == share.panel_end) return;
    const AmxTiles tiles;
    char* dots = scratch + bytes * thread;
    char* u = dots + kBlockRows * kPanelRowBytes;
    float* s = reinterpret_cast<float*>(u + block * ldu);
    int32_t* z = reinterpret_cast<int32_t*>(s + block);
    Finished<true> done;
    for (int64_t m0 = share.row_begin; m0 < share.row_end; m0 += block) {
      const int64_t rows = share.row_end - m0 < block ? share.row_end - m0 : block;
      // Rows of u beyond `rows` hold anything: their sums are not used.
      QuantizeAnyRows(g, m0, rows, reinterpret_cast<uint8_t*>(u), ldu, s, z);
      TileFence();
      for (int64_t p = share.panel_begin; p < share.panel_end; ++p) {
        if (unit == kTileRows) {
          DotInt8(u, ldu, g.panel(p), depth, dots);
          EmitBlock<true, 4>(g.epilogue, dots, {s, z, g.column_sums(p)}, m0, rows, p * kPanelCols,
                             g.panel_cols(p));
          continue;
        }
        for (int64_t r = 0; r < rows; r += kBlockRows) {
          for (int half = 0; half < 2; ++half) {
            ZeroSums();
            Steps2x2<true>(u + r * ldu, ldu, g.panel(p) + half * 128, depth);
            done.Emit();
            Store2x2(dots);
            done = {&g, dots, s + r, z + r, m0 + r, rows - r < kBlockRows ? rows - r : kBlockRows,
                    p,  half};
          }
        }
      }
      done.Emit();
      done = {};
    }
  });
  return true;
}

}  // namespace kpt::cpu::amx

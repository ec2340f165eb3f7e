// 8-bit weights on AMX tiles.
//
// Weight-only: codes are decoded to bf16 tiles. Up to 16 rows a slice at a time, while the tiles
// multiply the slice before it, so that the kernel runs at the speed of memory; beyond, whole
// panels, as many as fit in half of the second-level cache. int8: the panel is read in place.
#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "kernels/base/parallel_for.h"
#include "kernels/base/scratch.h"
#include "kernels/gemm/cpu/decode_avx512_bf16.h"
#include "kernels/gemm/cpu/quant_gemm.h"

namespace kpt::cpu::amx {
namespace {

constexpr int64_t kTileRows = 16;                  // rows of an A or C tile
constexpr int64_t kStepDepth = 16;                 // dword rows of a B tile
constexpr int64_t kStepBytes = kStepDepth * kPanelRowBytes;
constexpr int64_t kBlockRows = 2 * kTileRows;      // rows of a 2 x 2 block of C tiles
constexpr int64_t kInt8Rows = 8 * kBlockRows;      // rows quantized at once
constexpr int64_t kSliceDepth = 16;                // dword rows decoded at once: 8 KiB of bf16
constexpr int64_t kGroupBytes = 1 << 20;           // decoded panels
constexpr int64_t kPrefetchBytes = 8192;

constexpr int64_t RoundUp(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t bytes_per_row[16] = {};
  uint8_t rows[16] = {};
};

// All eight tiles as 16 rows of 64 bytes; released when the thread is done.
class Tiles {
 public:
  Tiles() {
    TileConfig config;
    for (int i = 0; i < 8; ++i) {
      config.bytes_per_row[i] = 64;
      config.rows[i] = 16;
    }
    _tile_loadconfig(&config);
  }
  ~Tiles() { _tile_release(); }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;
};

// Tile loads are opaque to the compiler: stores before must not sink below them.
inline void StoresDone() { asm volatile("" ::: "memory"); }

#define KPT_TILE_DOT(c, a, b)    \
  do {                           \
    if constexpr (kInt8) {       \
      _tile_dpbusd(c, a, b);     \
    } else {                     \
      _tile_dpbf16ps(c, a, b);   \
    }                            \
  } while (false)

// sums[32][32] = a[32][depth dwords] * b[depth][32]; rows of b and sums are 64 columns.
template <bool kInt8>
void Block2x2(const char* a, int64_t lda, const char* b, int64_t depth, char* sums) {
  StoresDone();
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
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
  _tile_stored(0, sums, kPanelRowBytes);
  _tile_stored(1, sums + 64, kPanelRowBytes);
  _tile_stored(2, sums + kTileRows * kPanelRowBytes, kPanelRowBytes);
  _tile_stored(3, sums + kTileRows * kPanelRowBytes + 64, kPanelRowBytes);
}

inline void ZeroSums() {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
}

// The C tiles 0..3, 16 rows x 64 columns, gain a[16][16 dwords] * b[16][64].
template <bool kInt8>
inline void Step1x4(const char* a, int64_t lda, const char* b) {
  _tile_loadd(4, a, lda);
  _tile_loadd(5, b, kPanelRowBytes);
  _tile_loadd(6, b + 64, kPanelRowBytes);
  KPT_TILE_DOT(0, 4, 5);
  _tile_loadd(7, b + 128, kPanelRowBytes);
  KPT_TILE_DOT(1, 4, 6);
  _tile_loadd(5, b + 192, kPanelRowBytes);
  KPT_TILE_DOT(2, 4, 7);
  KPT_TILE_DOT(3, 4, 5);
}

inline void StoreSums(char* sums) {
  _tile_stored(0, sums, kPanelRowBytes);
  _tile_stored(1, sums + 64, kPanelRowBytes);
  _tile_stored(2, sums + 128, kPanelRowBytes);
  _tile_stored(3, sums + 192, kPanelRowBytes);
}

#undef KPT_TILE_DOT

template <bool kInt8>
void DecodeSlice(const Decoder& decoder, const char* panel, int64_t depth, char* out) {
  for (int64_t g = 0; g < depth; ++g, panel += kPanelRowBytes, out += 2 * kPanelRowBytes) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      _mm_prefetch(panel + kPrefetchBytes + j * 64, _MM_HINT_T1);
      __m512i first, second;
      decoder.Decode<kInt8>(LoadBytes(panel + j * 64), &first, &second);
      _mm512_store_si512(out + j * 64, first);
      _mm512_store_si512(out + kPanelRowBytes + j * 64, second);
    }
  }
}

// At most 16 rows: sums[16][64] = a * decode(panel).
template <bool kInt8>
void DecodeAndDot(const Decoder& decoder, const char* panel, int64_t depth, const char* a,
                  int64_t lda, char* buffers, char* sums) {
  constexpr int64_t kBuffer = 2 * kSliceDepth * kPanelRowBytes;
  ZeroSums();
  if (depth > 0) DecodeSlice<kInt8>(decoder, panel, kSliceDepth, buffers);
  for (int64_t k0 = 0; k0 < depth; k0 += kSliceDepth) {
    const char* now = buffers + k0 / kSliceDepth % 2 * kBuffer;
    if (k0 + kSliceDepth < depth) {
      // Decoding ahead gives the stores time to reach the cache that the tile loads read.
      DecodeSlice<kInt8>(decoder, panel + (k0 + kSliceDepth) * kPanelRowBytes, kSliceDepth,
                         buffers + (k0 / kSliceDepth + 1) % 2 * kBuffer);
    }
    StoresDone();
    Step1x4<false>(a + k0 * 8, lda, now);
    Step1x4<false>(a + k0 * 8 + 64, lda, now + kStepBytes);
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

struct WeightOnlyScratch {
  int64_t padded, ld_copy, group, copy_bytes, decoded_bytes, bytes;

  explicit WeightOnlyScratch(const QuantGemm& g) {
    padded = g.depth() * 8;
    ld_copy = padded + 64;  // no power of two: rows spread over the cache's sets
    const int64_t panel = padded * kPanelCols;
    group = panel > 0 ? kGroupBytes / panel : 1;
    if (group < 1) group = 1;
    copy_bytes = kBlockRows * ld_copy;
    decoded_bytes =
        g.m <= kTileRows ? 4 * kSliceDepth * kPanelRowBytes : group * panel;
    bytes = RoundUp(copy_bytes + decoded_bytes + kBlockRows * kPanelRowBytes, 4096);
  }
};

template <bool kInt8>
void FewRows(const QuantGemm& g, const QuantShare& share, const WeightOnlyScratch& w,
             char* scratch) {
  const Decoder decoder(g.format);
  const Tiles tiles;
  char* decoded = scratch;
  char* sums = decoded + w.decoded_bytes;
  char* copy = sums + kBlockRows * kPanelRowBytes;
  CopyPadded(static_cast<const char*>(g.x), g.ldx * 2, g.k * 2, g.m, w.padded, kTileRows, copy,
             w.ld_copy);
  for (int64_t p = share.panel_begin; p < share.panel_end; ++p) {
    DecodeAndDot<kInt8>(decoder, g.panel(p), g.depth(), copy, w.ld_copy, decoded, sums);
    avx512::EmitRows(g.epilogue, reinterpret_cast<const float*>(sums), nullptr, kPanelCols, 0, g.m,
                     p * kPanelCols, g.panel_cols(p));
  }
}

template <bool kInt8>
void ManyRows(const QuantGemm& g, const QuantShare& share, const WeightOnlyScratch& w,
              char* scratch) {
  const Decoder decoder(g.format);
  const Tiles tiles;
  const int64_t depth = g.depth();
  char* decoded = scratch;
  char* sums = decoded + w.decoded_bytes;
  char* copy = sums + kBlockRows * kPanelRowBytes;
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
        Block2x2<false>(x, ldx, b, 2 * depth, sums);
        Block2x2<false>(x, ldx, b + 128, 2 * depth, sums + 128);
        avx512::EmitRows(g.epilogue, reinterpret_cast<const float*>(sums), nullptr, kPanelCols, m0,
                         rows, p * kPanelCols, g.panel_cols(p));
      }
    }
  }
}

// 16 rows, int8: sums[16][64] = a * panel, read ahead from memory.
void DotInt8(const char* a, int64_t lda, const char* panel, int64_t depth, char* sums) {
  StoresDone();
  ZeroSums();
  for (int64_t g = 0; g < depth; g += kStepDepth, a += 64, panel += kStepBytes) {
    for (int64_t i = 0; i < kStepBytes; i += 64) {
      _mm_prefetch(panel + kPrefetchBytes + i, _MM_HINT_T1);
    }
    Step1x4<true>(a, lda, panel);
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
      g.m <= kTileRows ? kTileRows
                       : (g.m < kInt8Rows ? RoundUp(g.m, kBlockRows) : kInt8Rows);
  const int64_t bytes =
      RoundUp(block * ldu + kBlockRows * kPanelRowBytes + block * 8, 4096);
  char* scratch = ScratchAs<char>(1, static_cast<size_t>(bytes * num_threads));
  if (scratch == nullptr) return false;
  Parallel(num_threads, [&](int thread, int threads) {
    const int64_t unit = g.m <= kTileRows ? kTileRows : kBlockRows;
    const QuantShare share = ShareOf(thread, threads, g.m, unit, g.panel_count(), 1);
    if (share.row_begin >= share.row_end || share.panel_begin == share.panel_end) return;
    const Tiles tiles;
    char* dots = scratch + bytes * thread;
    char* u = dots + kBlockRows * kPanelRowBytes;
    float* s = reinterpret_cast<float*>(u + block * ldu);
    int32_t* z = reinterpret_cast<int32_t*>(s + block);
    for (int64_t m0 = share.row_begin; m0 < share.row_end; m0 += block) {
      const int64_t rows = share.row_end - m0 < block ? share.row_end - m0 : block;
      // Rows of u beyond `rows` hold anything: their sums are not used.
      avx512::QuantizeRows(g, m0, rows, reinterpret_cast<uint8_t*>(u), ldu, s, z);
      for (int64_t p = share.panel_begin; p < share.panel_end; ++p) {
        for (int64_t r = 0; r < rows; r += unit) {
          const int64_t some = rows - r < unit ? rows - r : unit;
          if (unit == kTileRows) {
            DotInt8(u, ldu, g.panel(p), depth, dots);
          } else {
            Block2x2<true>(u + r * ldu, ldu, g.panel(p), depth, dots);
            Block2x2<true>(u + r * ldu, ldu, g.panel(p) + 128, depth, dots + 128);
          }
          float* sums = reinterpret_cast<float*>(dots);
          avx512::Dequantize(reinterpret_cast<const int32_t*>(dots), s + r, z + r, some,
                             g.column_sums(p), sums);
          avx512::EmitRows(g.epilogue, sums, nullptr, kPanelCols, m0 + r, some, p * kPanelCols,
                           g.panel_cols(p));
        }
      }
    }
  });
  return true;
}

}  // namespace kpt::cpu::amx

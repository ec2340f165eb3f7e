// Products of bytes on AMX tiles: fp8 decoded to bf16 pairs, int8 as u8 x s8.
//
// The register tile is 32 rows x 32 columns, two by two tiles; up to 16 rows, one by four. Slices
// of K leave the tiles for a buffer in the first-level cache, from which they are scaled and added.
#include <immintrin.h>

#include <cstdint>

#include "kernels/base/amx_tiles.h"

#define KPT_SIMD_NS amx
#define KPT_NEST_EMIT avx512::EmitRows

#include "kernels/gemm/cpu/byte_nest.h"
#include "kernels/gemm/cpu/bytes_avx512_bf16.h"

namespace kpt::cpu::amx {
namespace {

constexpr int64_t kTile = 16;  // rows of a tile, and dwords of a tile's row

#define KPT_TILE_DOT(c, a, b)  \
  do {                         \
    if constexpr (kInt8) {     \
      _tile_dpbusd(c, a, b);   \
    } else {                   \
      _tile_dpbf16ps(c, a, b); \
    }                          \
  } while (false)

inline void ZeroTiles() {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
}

// out[32][64]: columns [0, 32) of b.
template <bool kInt8>
void Dot2x2(int64_t depth, const uint32_t* a, int64_t lda, const uint32_t* b, float* out) {
  ZeroTiles();
  const int64_t stride = lda * 4;
  for (int64_t k = 0; k < depth; k += kTile, a += kTile, b += kTile * kPanelCols) {
    _tile_loadd(4, a, stride);
    _tile_loadd(6, b, kPanelRowBytes);
    _tile_loadd(7, b + kTile, kPanelRowBytes);
    KPT_TILE_DOT(0, 4, 6);
    _tile_loadd(5, a + kTile * lda, stride);
    KPT_TILE_DOT(1, 4, 7);
    KPT_TILE_DOT(2, 5, 6);
    KPT_TILE_DOT(3, 5, 7);
  }
  _tile_stored(0, out, kPanelRowBytes);
  _tile_stored(1, out + kTile, kPanelRowBytes);
  _tile_stored(2, out + kTile * kPanelCols, kPanelRowBytes);
  _tile_stored(3, out + kTile * kPanelCols + kTile, kPanelRowBytes);
}

// out[16][64].
template <bool kInt8>
void Dot1x4(int64_t depth, const uint32_t* a, int64_t lda, const uint32_t* b, float* out) {
  ZeroTiles();
  for (int64_t k = 0; k < depth; k += kTile, a += kTile, b += kTile * kPanelCols) {
    _tile_loadd(4, a, lda * 4);
    _tile_loadd(5, b, kPanelRowBytes);
    KPT_TILE_DOT(0, 4, 5);
    _tile_loadd(6, b + kTile, kPanelRowBytes);
    KPT_TILE_DOT(1, 4, 6);
    _tile_loadd(7, b + 2 * kTile, kPanelRowBytes);
    KPT_TILE_DOT(2, 4, 7);
    _tile_loadd(5, b + 3 * kTile, kPanelRowBytes);
    KPT_TILE_DOT(3, 4, 5);
  }
  _tile_stored(0, out, kPanelRowBytes);
  _tile_stored(1, out + kTile, kPanelRowBytes);
  _tile_stored(2, out + 2 * kTile, kPanelRowBytes);
  _tile_stored(3, out + 3 * kTile, kPanelRowBytes);
}

#undef KPT_TILE_DOT

// The products of one slice; rows beyond `rows` are of whatever lies in a.
template <bool kInt8>
void DotSlice(int rows, int64_t depth, const uint32_t* a, int64_t lda, const uint32_t* b,
              float* out, PiecePrefetch* ahead) {
  for (int64_t k = 0; k < depth; k += kPrefetchDepth) ahead->Tick();
  TileFence();
  if (rows <= kTile) {
    Dot1x4<kInt8>(depth, a, lda, b, out);
  } else {
    Dot2x2<kInt8>(depth, a, lda, b, out);
    Dot2x2<kInt8>(depth, a, lda, b + 2 * kTile, out + 2 * kTile);
  }
  TileFence();
}

constexpr int kMostTileRows = 32;

struct Fp8Tile : Fp8Bytes {
  static constexpr int64_t kPerDword = 2;
  static constexpr int kTileRows = kMostTileRows;
  static constexpr bool kExact = false;
  using Fp8Bytes::Fp8Bytes;

  void Multiply(int rows, int64_t depth, const uint32_t* a, int64_t lda, const uint32_t* b,
                const float* row, const float* column, bool accumulate, float* sums,
                PiecePrefetch* ahead) const {
    alignas(64) float slice[kMostTileRows * kPanelCols];
    DotSlice<false>(rows, depth, a, lda, b, slice, ahead);
    for (int64_t i = 0; i < rows; ++i) {
      const __m512 r = _mm512_set1_ps(row[i]);
      for (int64_t j = 0; j < kPanelCols; j += 16) {
        float* at = sums + i * kPanelCols + j;
        const __m512 v =
            _mm512_mul_ps(_mm512_load_ps(slice + i * kPanelCols + j), _mm512_load_ps(column + j));
        _mm512_store_ps(
            at, accumulate ? _mm512_fmadd_ps(v, r, _mm512_load_ps(at)) : _mm512_mul_ps(v, r));
      }
    }
  }

 private:
  AmxTiles tiles_;
};

struct Int8Tile : Int8Bytes {
  static constexpr int64_t kPerDword = 4;
  static constexpr int kTileRows = kMostTileRows;
  static constexpr bool kExact = true;
  using Int8Bytes::Int8Bytes;

  void Multiply(int rows, int64_t depth, const uint32_t* a, int64_t lda, const uint32_t* b,
                const float*, const float*, bool accumulate, float* sums,
                PiecePrefetch* ahead) const {
    alignas(64) float slice[kMostTileRows * kPanelCols];
    DotSlice<true>(rows, depth, a, lda, b, slice, ahead);
    for (int64_t i = 0; i < rows * kPanelCols; i += 16) {
      __m512i v = _mm512_load_si512(slice + i);
      if (accumulate) v = _mm512_add_epi32(v, _mm512_load_si512(sums + i));
      _mm512_store_si512(sums + i, v);
    }
  }

 private:
  AmxTiles tiles_;
};

}  // namespace

bool Fp8Tiles(int num_threads, const ByteGemm& g) { return RunByteNest<Fp8Tile>(num_threads, g); }
bool Int8Tiles(int num_threads, const ByteGemm& g) { return RunByteNest<Int8Tile>(num_threads, g); }

}  // namespace kpt::cpu::amx

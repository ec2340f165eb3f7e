// The matrix products on AMX tiles (tdpbf16ps: 16 x 16 floats += 16 x 32 by 32 x 16 bfloat16).
//
// Four accumulators, two tiles of rows and two of columns: every tile loaded is used twice, so that
// loads (8 cycles each) do not hold back the products (16 cycles each).
//
// Included by one file, compiled with AMX: everything lies in KPT_SIMD_NS.
#ifndef KPT_KERNELS_ATTENTION_CPU_AMX_TILE_H_
#define KPT_KERNELS_ATTENTION_CPU_AMX_TILE_H_

#include <immintrin.h>

#include "kernels/attention/cpu/flash_forward.h"
#include "kernels/base/amx_tiles.h"

HWY_BEFORE_NAMESPACE();
namespace kpt::cpu::KPT_SIMD_NS {

struct AmxTile {
  using Packed = uint16_t;
  static constexpr int kBlockRows = 64;
  static constexpr int kGroupRows = 32;
  static constexpr int kTile = 16;
  static constexpr int kKeyAlign = 32;
  static constexpr int kDepthAlign = 32;
  static constexpr int kColumnAlign = 32;
  using B = Block<Packed, kBlockRows, kGroupRows>;
  using Shape = PackedShape<AmxTile>;

  static int BlockKeys(const FlashProblem&) { return 128; }

  static void Configure() {
    static constexpr amx::FullTileConfig kConfig;
    _tile_loadconfig(&kConfig);
  }
  static void Release() { _tile_release(); }

  // s[row][key] = q[row] . k[key] for the visible groups.
  static void Scores(B& block, const Group* groups, int count, const Packed* k,
                     const Shape& shape) {
    const int64_t key_tile = shape.k_tile;
    for (int i = 0; i < count; ++i) {
      const Group& g = groups[i];
      if (!g.visible) continue;
      for (int t = g.begin; t < g.end; t += 32) {
        const Packed* keys = k + t / kTile * key_tile;
        const Packed* q = block.q + g.row * kStride;
        float* s = block.s + g.row * kRowFloats + t;
        const int64_t depth = shape.depth_dwords;
        Multiply<false>(g.rows > 16, q, keys, keys + key_tile, depth / kTileDwords, s);
      }
    }
  }

  // o[row] += sum over the group's keys of weight[row][key] * v[key]
  static void Weighted(B& block, const Group* groups, int count, const Packed* v,
                       const Shape& shape) {
    for (int i = 0; i < count; ++i) {
      const Group& g = groups[i];
      if (!g.visible) continue;
      const Packed* weights = block.weights(g.row) + g.begin;
      const int64_t steps = (g.end - g.begin) / 32;
      for (int64_t c = 0; c < shape.columns; c += 32) {
        const Packed* values = v + c / kTile * shape.v_tile + static_cast<int64_t>(g.begin) * kTile;
        float* o = block.o + g.row * kRowFloats + c;
        if (g.first) {
          Multiply<false>(g.rows > 16, weights, values, values + shape.v_tile, steps, o);
        } else {
          Multiply<true>(g.rows > 16, weights, values, values + shape.v_tile, steps, o);
        }
      }
    }
  }

 private:
  static constexpr int kStride = B::kPackedStride;
  static constexpr int kRowBytes = kRowFloats * 4;
  static constexpr int kTileDwords = 16;         // depth of a tile
  static constexpr int kTileElements = 16 * 32;  // of a packed tile

  // c[0, 32)[0, 32) (+)= a b, or only the first 16 rows. Per step a advances by 32 elements of
  // depth, both columns by one tile.
  template <bool kAdd>
  KPT_SIMD_INLINE void Multiply(bool two_rows, const Packed* a, const Packed* b0, const Packed* b1,
                                int64_t steps, float* c) {
    amx::TileFence();
    float* low = c + 16 * kRowFloats;
    if constexpr (kAdd) {
      _tile_loadd(0, c, kRowBytes);
      _tile_loadd(1, c + 16, kRowBytes);
      if (two_rows) {
        _tile_loadd(2, low, kRowBytes);
        _tile_loadd(3, low + 16, kRowBytes);
      }
    } else {
      _tile_zero(0);
      _tile_zero(1);
      _tile_zero(2);
      _tile_zero(3);
    }
    if (two_rows) {
      for (int64_t i = 0; i < steps; ++i) {
        _tile_loadd(4, a, kRowBytes);
        _tile_loadd(6, b0, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, b1, 64);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, a + 16 * kStride, kRowBytes);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
        a += 32;
        b0 += kTileElements;
        b1 += kTileElements;
      }
      _tile_stored(2, low, kRowBytes);
      _tile_stored(3, low + 16, kRowBytes);
    } else {
      for (int64_t i = 0; i < steps; ++i) {
        _tile_loadd(4, a, kRowBytes);
        _tile_loadd(6, b0, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, b1, 64);
        _tile_dpbf16ps(1, 4, 7);
        a += 32;
        b0 += kTileElements;
        b1 += kTileElements;
      }
    }
    _tile_stored(0, c, kRowBytes);
    _tile_stored(1, c + 16, kRowBytes);
    amx::TileFence();
  }
};

}  // namespace kpt::cpu::KPT_SIMD_NS
HWY_AFTER_NAMESPACE();

#endif  // KPT_KERNELS_ATTENTION_CPU_AMX_TILE_H_

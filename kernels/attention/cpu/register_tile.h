// The engine of attention_forward on vector registers.
//
// Included by files compiled once per instruction set: everything lies in KPT_SIMD_NS.
#ifndef KPT_KERNELS_ATTENTION_CPU_REGISTER_TILE_H_
#define KPT_KERNELS_ATTENTION_CPU_REGISTER_TILE_H_

#include "kernels/attention/cpu/flash_forward.h"
#include "kernels/attention/cpu/tile_product.h"

HWY_BEFORE_NAMESPACE();
namespace kpt::cpu::KPT_SIMD_NS {

template <class PackedType>
struct RegisterTile {
  using Packed = PackedType;
  static constexpr int kPerDword = 4 / static_cast<int>(sizeof(Packed));
  static constexpr int kBlockRows = 48;
  static constexpr int kGroupRows = 12;
  static constexpr int kTile = kTileLanes;
  static constexpr int kKeyAlign = kLanes < 8 ? 8 : static_cast<int>(kLanes);
  static constexpr int kDepthAlign = 4 * kPerDword;
  static constexpr int kColumnAlign = static_cast<int>(kLanes) * kPerDword;
  using B = Block<Packed, kBlockRows, kGroupRows>;
  using Shape = PackedShape<RegisterTile>;
  using Product = TileProduct<Packed, B::kPackedStride>;

  static int BlockKeys(const FlashProblem& p) {
    // Scores and the two packed blocks share the second-level cache with the queries.
    if (sizeof(Packed) == 4) return 64;
    return p.dim_qk > 32 ? 256 : 128;
  }

  // s[row][key] = q[row] . k[key] for the visible groups. A tile of keys stays in the first-level
  // cache while all groups pass over it.
  static void Scores(B& block, const Group* groups, int count, const Packed* k,
                     const Shape& shape) {
    int begin = kMaxBlockKeys;
    int end = 0;
    for (int i = 0; i < count; ++i) {
      if (!groups[i].visible) continue;
      begin = groups[i].begin < begin ? groups[i].begin : begin;
      end = groups[i].end > end ? groups[i].end : end;
    }
    for (int t = begin; t < end; t += kTile) {
      const Packed* tile = k + t / kTile * shape.k_tile;
      for (int i = 0; i < count; ++i) {
        const Group& g = groups[i];
        if (!g.visible || t < g.begin || t >= g.end) continue;
        const int vectors = static_cast<int>(RoundUp(Least(kTile, g.end - t), kLanes) / kLanes);
        const Packed* q = block.q + g.row * B::kPackedStride;
        float* s = block.s + g.row * kRowFloats + t;
        if (vectors == 1) {
          // Registers are left for four sums over parts of the depth: more exact, since shorter.
          Product::MultiplyDeep(g.rows, q, tile, shape.depth_dwords, s, kRowFloats);
        } else {
          Product::Multiply(vectors, g.rows, q, tile, shape.depth_dwords, s, kRowFloats, false);
        }
      }
    }
  }

  // o[row] += sum over the group's keys of weight[row][key] * v[key]
  static void Weighted(B& block, const Group* groups, int count, const Packed* v,
                       const Shape& shape) {
    for (int64_t c = 0; c < shape.columns; c += kTile) {
      const int vectors = static_cast<int>(Least(kTile, shape.columns - c) / kLanes);
      for (int i = 0; i < count; ++i) {
        const Group& g = groups[i];
        if (!g.visible) continue;
        const Packed* tile = v + c / kTile * shape.v_tile + static_cast<int64_t>(g.begin) * kTile;
        Product::Multiply(vectors, g.rows, block.weights(g.row) + g.begin, tile,
                          (g.end - g.begin) / kPerDword, block.o + g.row * kRowFloats + c,
                          kRowFloats, !g.first);
      }
    }
  }
};

}  // namespace kpt::cpu::KPT_SIMD_NS
HWY_AFTER_NAMESPACE();

#endif  // KPT_KERNELS_ATTENTION_CPU_REGISTER_TILE_H_

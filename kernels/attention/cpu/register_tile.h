// The matrix products on vector registers: float multiply-add, or pairs of bfloat16 (vdpbf16ps).
//
// The accumulators are a tile of rows x vectors that fills the registers (24 of 32, or 12 of 16):
// with 6 x 4, four loads and six broadcasts feed 24 multiply-adds, so loads are not the limit.
//
// Included by files compiled once per instruction set: everything lies in KPT_SIMD_NS.
#ifndef KPT_KERNELS_ATTENTION_CPU_REGISTER_TILE_H_
#define KPT_KERNELS_ATTENTION_CPU_REGISTER_TILE_H_

#include "kernels/attention/cpu/flash_forward.h"

HWY_BEFORE_NAMESPACE();
namespace kpt::cpu::KPT_SIMD_NS {

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

template <class PackedType>
struct RegisterTile {
  using Packed = PackedType;
  static constexpr int kPerDword = 4 / static_cast<int>(sizeof(Packed));
  static constexpr int kVectors = kLanes == 16 ? 4 : 2;
  static constexpr int kBlockRows = 48;
  static constexpr int kGroupRows = 12;
  static constexpr int kTile = kVectors * static_cast<int>(kLanes);
  static constexpr int kKeyAlign = kLanes < 8 ? 8 : static_cast<int>(kLanes);
  static constexpr int kDepthAlign = 4 * kPerDword;
  static constexpr int kColumnAlign = static_cast<int>(kLanes) * kPerDword;
  using B = Block<Packed, kBlockRows, kGroupRows>;
  using Shape = PackedShape<RegisterTile>;

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
          Rows<kVectors == 4 ? 6 : 3, 1, 4>(g.rows, q, tile, shape.depth_dwords, s, false);
        } else {
          Multiply(vectors, g.rows, q, tile, shape.depth_dwords, s, false);
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
        Multiply(vectors, g.rows, block.weights(g.row) + g.begin, tile,
                 (g.end - g.begin) / kPerDword, block.o + g.row * kRowFloats + c, !g.first);
      }
    }
  }

 private:
  // c[r][...] (+)= a[r][...] b for `rows` rows and `vectors` vectors of columns.
  static void Multiply(int vectors, int rows, const Packed* a, const Packed* b, int64_t steps,
                       float* c, bool add) {
    if constexpr (kVectors == 4) {
      if (vectors == 4) return Rows<6, 4>(rows, a, b, steps, c, add);
      if (vectors == 3) return Rows<6, 3>(rows, a, b, steps, c, add);
      if (vectors == 2) return Rows<12, 2>(rows, a, b, steps, c, add);
    } else {
      if (vectors == 2) return Rows<6, 2>(rows, a, b, steps, c, add);
    }
    return Rows<12, 1>(rows, a, b, steps, c, add);
  }

  template <int kRows, int kCols, int kChains = 1>
  static void Rows(int rows, const Packed* a, const Packed* b, int64_t steps, float* c, bool add) {
    for (; rows >= kRows; rows -= kRows) {
      Tile<kRows, kCols, kChains>(a, b, steps, c, add);
      a += kRows * B::kPackedStride;
      c += kRows * kRowFloats;
    }
    if constexpr (kRows > 1) {
      constexpr int kFewer = kRows == 12 ? 6 : kRows == 6 ? 4 : kRows / 2;
      if (rows > 0) Rows<kFewer, kCols, kChains>(rows, a, b, steps, c, add);
    }
  }

  // Chain i sums steps i, i + kChains, ...; `steps` is a multiple of kChains.
  template <int kRows, int kCols, int kChains>
  static void Tile(const Packed* a, const Packed* b, int64_t steps, float* c, bool add) {
    FloatVec sum[kRows][kCols * kChains];
    HWY_UNROLL(12)
    for (int r = 0; r < kRows; ++r) {
      HWY_UNROLL(4)
      for (int v = 0; v < kCols * kChains; ++v) {
        const bool start = add && v < kCols;
        sum[r][v] = start ? hn::LoadU(FloatTag(), c + r * kRowFloats + v * kLanes) : Set(0.0f);
      }
    }
    const float* columns = reinterpret_cast<const float*>(b);  // dwords
    for (int64_t k = 0; k < steps; k += kChains) {
      FloatVec x[kCols * kChains];
      HWY_UNROLL(4)
      for (int v = 0; v < kCols * kChains; ++v) {
        const int64_t step = k + v / kCols;
        x[v] = hn::LoadU(FloatTag(), columns + step * kTile + v % kCols * kLanes);
      }
      HWY_UNROLL(12)
      for (int r = 0; r < kRows; ++r) {
        HWY_UNROLL(4)
        for (int v = 0; v < kCols * kChains; ++v) {
          const Packed* left = a + r * B::kPackedStride + (k + v / kCols) * kPerDword;
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
        hn::StoreU(all, FloatTag(), c + r * kRowFloats + v * kLanes);
      }
    }
  }
};

}  // namespace kpt::cpu::KPT_SIMD_NS
HWY_AFTER_NAMESPACE();

#endif  // KPT_KERNELS_ATTENTION_CPU_REGISTER_TILE_H_

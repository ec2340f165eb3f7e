// The backward pass of one head over a range of keys. The formulas are in attention_backward.h.
//
// Everything is computed with keys as rows and queries along the vectors: then P and dS come out of
// the first two products as the next two read them, and no product needs a transpose in its loop.
//   S^T  = K Q^T       rows of K as they are, Q packed by columns
//   dP^T = V dO^T      rows of V as they are, dO packed by columns
//   dV  += P^T dO      rows of P^T just made, dO packed by rows
//   dK  += dS^T Q      rows of dS^T just made, Q packed by rows
//   dQ^T += K^T dS^T   K^T made once a block of keys, dS^T packed by rows
// A block is kBlockKeys keys and kBlockQueries queries; its scores, P and dS stay in the caches. Of
// a block only those groups of keys and tiles of queries are computed that see each other.
//
// Included by files compiled once per instruction set: everything lies in KPT_SIMD_NS.
#ifndef KPT_KERNELS_ATTENTION_CPU_FLASH_BACKWARD_H_
#define KPT_KERNELS_ATTENTION_CPU_FLASH_BACKWARD_H_

#include "kernels/attention/cpu/flash_backward_problem.h"
#include "kernels/attention/cpu/flash_pack.h"
#include "kernels/attention/cpu/flash_softmax.h"
#include "kernels/attention/cpu/tile_product.h"

HWY_BEFORE_NAMESPACE();
namespace kpt::cpu::KPT_SIMD_NS {

// 2^t for any t: the exponent of a weight is at most 0 only as long as lse belongs to the scores.
template <bool kBf16>
KPT_SIMD_INLINE FloatVec AnyExpWeight(FloatVec t) {
#if HWY_TARGET <= HWY_AVX3
  return ExpWeight<kBf16>(t);
#else
  return hn::IfThenElse(hn::Gt(t, Set(127.0f)), Set(-kNegInf), ExpWeight<kBf16>(t));
#endif
}

template <class PackedType>
class FlashBackward {
 public:
  static FlashBackwardKernel Kernel() {
    FlashBackwardKernel kernel;
    kernel.block_keys = kBlockKeys;
    kernel.shape = [](const FlashProblem& p) {
      const Shape s(p);
      return FlashBackwardShape{s.queries / kTile, s.depth_qk * kTile, s.columns_qk, s.columns_v,
                                sizeof(Workspace) + s.PackedBytes()};
    };
    kernel.fill_mask = FillMask;
    kernel.run = Run;
    kernel.write_queries = WriteQueries;
    kernel.write_keys = WriteKeys;
    return kernel;
  }

 private:
  using Packed = PackedType;
  static constexpr int kPerDword = 4 / static_cast<int>(sizeof(Packed));
  static constexpr bool kBf16 = sizeof(Packed) == 2;
  // Exponents of e until the last step: a rounding less at the size of the scores.
  static constexpr bool kNatural = !kBf16;
  static constexpr int kTile = kTileLanes;
  static constexpr int kStride = kRowFloats * kPerDword;
  static constexpr int kBlockKeys = 96;
  static constexpr int kGroupKeys = 12;
  static_assert(kBlockKeys % kGroupKeys == 0 && kBlockKeys % (2 * kLanes) == 0, "whole vectors");
  // A tile of columns of this many queries takes half of the first-level cache.
  static constexpr int kBlockQueries =
      kTile * static_cast<int>(sizeof(Packed)) * 128 > 16384 ? 64 : 128;
  static constexpr int kBlockTiles = kBlockQueries / kTile;
  using Product = TileProduct<Packed, kStride>;

  struct Shape {
    explicit Shape(const FlashProblem& p)
        : queries(RoundUp(p.seqlen_q, kTile)),
          depth_qk(RoundUp(p.dim_qk, 4 * kPerDword)),
          depth_v(RoundUp(p.dim_v, 4 * kPerDword)),
          columns_qk(RoundUp(p.dim_qk, kLanes * kPerDword)),
          columns_v(RoundUp(p.dim_v, kLanes * kPerDword)),
          tile(queries * kTile) {}

    int64_t QElements() const { return queries * depth_qk; }
    int64_t GElements() const { return queries * depth_v; }
    int64_t QRowElements() const { return RoundUp(columns_qk, kTile) * queries; }
    int64_t GRowElements() const { return RoundUp(columns_v, kTile) * queries; }
    size_t PackedBytes() const {
      const int64_t elements = QElements() + GElements() + QRowElements() + GRowElements();
      return static_cast<size_t>(elements) * sizeof(Packed) +
             static_cast<size_t>(2 * queries) * sizeof(float) + 6 * 64;
    }

    int64_t queries;
    int64_t depth_qk, depth_v;      // summed over in the first two products
    int64_t columns_qk, columns_v;  // columns of the other products
    int64_t tile;                   // elements of one tile of columns, packed by rows
  };

  // One block at work; a head's packed rows follow behind it.
  struct Workspace {
    alignas(64) Packed k[kBlockKeys * kStride];
    alignas(64) Packed v[kBlockKeys * kStride];
    alignas(64) Packed k_transposed[kFlashMaxDim * kStride];
    alignas(64) Packed p[kBlockKeys * kStride];   // [key][query]
    alignas(64) Packed ds[kBlockKeys * kStride];  // [key][query]
    alignas(64) Packed ds_packed[kBlockTiles][kBlockKeys * kTile];
    alignas(64) float s[kBlockKeys * kTile];
    alignas(64) float dp[kBlockKeys * kTile];
    alignas(64) float bias[kBlockKeys * kTile];
    alignas(64) float rows[(kTile > 16 ? kTile : 16) * kRowFloats];
  };

  // The queries of one head, from tile `first` on.
  struct Head {
    Head(const Shape& s, Workspace* w) {
      char* at = reinterpret_cast<char*>(w + 1);
      const auto take = [&at](int64_t elements, auto** pointer) {
        using T = std::remove_pointer_t<std::remove_pointer_t<decltype(pointer)>>;
        *pointer = reinterpret_cast<T*>(at);
        at += RoundUp(elements * static_cast<int64_t>(sizeof(T)), 64);
      };
      take(s.QElements(), &q);
      take(s.GElements(), &g);
      take(s.QRowElements(), &q_rows);
      take(s.GRowElements(), &g_rows);
      take(s.queries, &shift);
      take(s.queries, &delta);
    }

    int64_t first = 0;
    Packed* q;       // by columns
    Packed* g;       // gradients of the outputs
    Packed* q_rows;  // by rows
    Packed* g_rows;
    float* shift;  // lse, in units of log2 where exponents are; 0 for -inf
    float* delta;  // sum of grad_out * out, minus grad_lse
  };

  // The groups of keys of a block that a tile of queries sees: [begin, end), begin >= end if none.
  struct Keys {
    int begin;
    int end;
  };

  static TileRange Run(const FlashBackwardProblem& p, const FlashTask& task, int64_t head_q,
                       float* grad_q, float* grad_k, float* grad_v) {
    if (task.keys.begin >= task.keys.end) return {0, 0};
    const QueryRange queries{VisibleQueries(p, task.keys.begin).begin,
                             VisibleQueries(p, task.keys.end - 1).end};
    if (queries.begin >= queries.end) return {0, 0};
    const TileRange tiles{queries.begin / kTile, RoundUp(queries.end, kTile) / kTile};
    const Shape shape(p);
    Workspace& w = *static_cast<Workspace*>(task.block);
    Head head(shape, &w);
    head.first = tiles.begin;
    PackQueries(p, task, shape, head_q, Least(tiles.end * kTile, p.seqlen_q), w, head);

    const int64_t tile_floats = shape.depth_qk * kTile;
    std::memset(grad_q + tiles.begin * tile_floats, 0,
                static_cast<size_t>((tiles.end - tiles.begin) * tile_floats) * sizeof(float));
    for (int64_t key = task.keys.begin; key < task.keys.end; key += kBlockKeys) {
      const int keys = static_cast<int>(Least(kBlockKeys, task.keys.end - key));
      const QueryRange seen{VisibleQueries(p, key).begin, VisibleQueries(p, key + keys - 1).end};
      if (seen.begin >= seen.end) continue;
      LoadKeys(p, task, shape, key, keys, w);
      const int64_t last = RoundUp(seen.end, kTile) / kTile;
      for (int64_t tile = seen.begin / kTile; tile < last; tile += kBlockTiles) {
        const int count = static_cast<int>(Least(kBlockTiles, last - tile));
        RunBlock(p, task, shape, head, head_q, key, keys, tile, count, w,
                 grad_q + tile * tile_floats, grad_k + key * shape.columns_qk,
                 grad_v + key * shape.columns_v);
      }
    }
    return tiles;
  }

  // Packs rows [head.first * kTile, end) of queries and of the outputs' gradients.
  static void PackQueries(const FlashBackwardProblem& p, const FlashTask& task, const Shape& shape,
                          int64_t head_q, int64_t end, Workspace& w, const Head& head) {
    const int64_t begin = head.first * kTile;
    const int64_t rows = end - begin;
    const int64_t padded = RoundUp(rows, kTile);
    Packed* scratch = reinterpret_cast<Packed*>(w.rows);
    const SourceRows q(p.q, p.q_stride, task.batch, head_q, begin, rows, p.dim_qk, p.dtype);
    PackByColumns<kTile, kStride>(q, padded, shape.depth_qk / kPerDword, scratch, head.q);
    PackByRows<kTile, kStride>(q, padded, shape.columns_qk, shape.tile, scratch, head.q_rows);
    const SourceRows g(p.grad_out, p.grad_out_stride, task.batch, head_q, begin, rows, p.dim_v,
                       p.dtype);
    PackByColumns<kTile, kStride>(g, padded, shape.depth_v / kPerDword, scratch, head.g);
    PackByRows<kTile, kStride>(g, padded, shape.columns_v, shape.tile, scratch, head.g_rows);

    const SourceRows out(p.out, p.out_stride, task.batch, head_q, begin, rows, p.dim_v, p.dtype);
    const float* lse = p.lse + task.batch * p.lse_stride.batch + head_q * p.lse_stride.head;
    const float unit = kNatural || Units(p, task).transformed ? 1.0f : kLog2E;
    for (int64_t i = 0; i < padded; ++i) {
      head.shift[i] = head.delta[i] = 0.0f;
      if (i >= rows) continue;
      const float own = lse[(begin + i) * p.lse_stride.row];
      if (own != kNegInf) head.shift[i] = own * unit;
      const int64_t columns = RoundUp(p.dim_v, kLanes);
      CopyRow(out.data + i * out.row_bytes, p.dtype, p.dim_v, columns, w.rows);
      CopyRow(g.data + i * g.row_bytes, p.dtype, p.dim_v, columns, w.rows + kRowFloats);
      FloatVec sum = Set(0.0f);
      for (int64_t c = 0; c < columns; c += kLanes) {
        sum = hn::MulAdd(hn::LoadU(FloatTag(), w.rows + c),
                         hn::LoadU(FloatTag(), w.rows + kRowFloats + c), sum);
      }
      head.delta[i] = hn::ReduceSum(FloatTag(), sum);
      if (p.grad_lse != nullptr) {
        head.delta[i] -=
            p.grad_lse[task.batch * p.grad_lse_stride.batch + head_q * p.grad_lse_stride.head +
                       (begin + i) * p.grad_lse_stride.row];
      }
    }
  }

  // Rows of K and V, zeros behind the last, and K transposed.
  static void LoadKeys(const FlashProblem& p, const FlashTask& task, const Shape& shape,
                       int64_t key, int keys, Workspace& w) {
    const SourceRows k(p.k, p.k_stride, task.batch, task.head_kv, key, keys, p.dim_qk, p.dtype);
    const SourceRows v(p.v, p.v_stride, task.batch, task.head_kv, key, keys, p.dim_v, p.dtype);
    const int padded = static_cast<int>(RoundUp(RoundUp(keys, kGroupKeys), 2 * kLanes));
    for (int r = 0; r < padded; ++r) {
      Packed* k_row = w.k + r * kStride;
      Packed* v_row = w.v + r * kStride;
      if (r < keys) {
        CopyRow(k.data + r * k.row_bytes, p.dtype, p.dim_qk, shape.depth_qk, k_row);
        CopyRow(v.data + r * v.row_bytes, p.dtype, p.dim_v, shape.depth_v, v_row);
      } else {
        std::memset(k_row, 0, static_cast<size_t>(shape.depth_qk) * sizeof(Packed));
        std::memset(v_row, 0, static_cast<size_t>(shape.depth_v) * sizeof(Packed));
      }
    }
    TransposeKeys(shape, padded, w);
  }

  // `keys` is a multiple of 2 kLanes.
  static void TransposeKeys(const Shape& shape, int keys, Workspace& w) {
    const auto rows_from = [&w](int key, const Packed** rows) {
      for (int i = 0; i < kLanes; ++i) rows[i] = w.k + (key + i) * kStride;
    };
    const Packed* rows[kLanes];
    if constexpr (!kBf16) {
      for (int key = 0; key < keys; key += static_cast<int>(kLanes)) {
        rows_from(key, rows);
        uint32_t* dst = reinterpret_cast<uint32_t*>(w.k_transposed) + key;
        for (int64_t d = 0; d < shape.depth_qk; d += 4) {
          TransposeFourDwords(rows, d, kStride, dst + d * kStride);
        }
      }
    }
#if defined(__AVX512BW__)
    if constexpr (kBf16) {
      // Dwords are pairs of columns of one key; their halves are sorted into two rows.
      const Packed* more_rows[kLanes];
      alignas(64) uint32_t dwords[4 * 32];
      const __m512i even =
          _mm512_set_epi16(62, 60, 58, 56, 54, 52, 50, 48, 46, 44, 42, 40, 38, 36, 34, 32, 30, 28,
                           26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
      const __m512i odd = _mm512_add_epi16(even, _mm512_set1_epi16(1));
      for (int key = 0; key < keys; key += 32) {
        rows_from(key, rows);
        rows_from(key + 16, more_rows);
        for (int64_t d = 0; d < shape.depth_qk; d += 8) {
          TransposeFourDwords(rows, d, 32, dwords);
          TransposeFourDwords(more_rows, d, 32, dwords + 16);
          for (int i = 0; i < 4; ++i) {
            const __m512i x = _mm512_load_si512(dwords + 32 * i);
            const __m512i y = _mm512_load_si512(dwords + 32 * i + 16);
            Packed* dst = w.k_transposed + (d + 2 * i) * kStride + key;
            _mm512_storeu_si512(dst, _mm512_permutex2var_epi16(x, even, y));
            _mm512_storeu_si512(dst + kStride, _mm512_permutex2var_epi16(x, odd, y));
          }
        }
      }
    }
#endif
  }

  // `count` tiles of queries, from the head's tile `tile` on, against keys [key, key + keys). The
  // pointers to sums are those of the first tile and the first key.
  static void RunBlock(const FlashBackwardProblem& p, const FlashTask& task, const Shape& shape,
                       const Head& head, int64_t head_q, int64_t key, int keys, int64_t tile,
                       int count, Workspace& w, float* grad_q, float* grad_k, float* grad_v) {
    Keys seen[kBlockTiles];
    for (int t = 0; t < count; ++t) {
      const int64_t row = (tile + t) * kTile;
      const int64_t last = Least(row + kTile, p.seqlen_q) - 1;
      const int64_t from = Most(VisibleKeys(p, row).begin - key, 0);
      const int64_t to = Least(VisibleKeys(p, last).end - key, keys);
      Keys& k = seen[t];
      k.begin = static_cast<int>(from / kGroupKeys * kGroupKeys);
      k.end = static_cast<int>(from < to ? RoundUp(to, kGroupKeys) : k.begin);
      if (k.begin >= k.end) continue;
      if (task.row_bias && !FillBias(p, task, head_q, key, keys, row, k, w)) {
        k.end = k.begin;
        continue;
      }
      const int64_t at = tile + t - head.first;
      const int rows = k.end - k.begin;
      MultiplyRows(rows, w.k + k.begin * kStride, head.q + at * kTile * shape.depth_qk,
                   shape.depth_qk, w.s + k.begin * kTile);
      MultiplyRows(rows, w.v + k.begin * kStride, head.g + at * kTile * shape.depth_v,
                   shape.depth_v, w.dp + k.begin * kTile);
      const float* shift = head.shift + at * kTile;
      const float* delta = head.delta + at * kTile;
      if (Units(p, task).transformed) {
        Weigh<true>(p, task, key, keys, row, k, shift, delta, t * kTile, w);
      } else {
        Weigh<false>(p, task, key, keys, row, k, shift, delta, t * kTile, w);
      }
      const SourceRows ds(w.ds + k.begin * kStride + t * kTile, kStride, rows, kTile);
      PackByRows<kTile, kStride>(ds, rows, kTile, 0, reinterpret_cast<Packed*>(w.rows),
                                 w.ds_packed[t] + k.begin * kTile);
      Product::Multiply(kTileVectors, static_cast<int>(shape.depth_qk), w.k_transposed + k.begin,
                        w.ds_packed[t] + k.begin * kTile, rows / kPerDword,
                        grad_q + t * shape.depth_qk * kTile, kTile, true);
    }
    const int64_t base = (tile - head.first) * kTile;
    AddToKeys(seen, count, keys, w.p, head.g_rows + base * kTile, shape.tile, shape.columns_v,
              grad_v);
    AddToKeys(seen, count, keys, w.ds, head.q_rows + base * kTile, shape.tile, shape.columns_qk,
              grad_k);
  }

  // to[row] = left[row] * right for one tile of queries, by sums over parts of the depth.
  static void MultiplyRows(int rows, const Packed* left, const Packed* right, int64_t depth,
                           float* to) {
    constexpr int64_t kPart = 64 * kPerDword;
    for (int64_t d = 0; d < depth; d += kPart) {
      Product::Multiply(kTileVectors, rows, left + d, right + d * kTile,
                        Least(kPart, depth - d) / kPerDword, to, kTile, d > 0);
    }
  }

  // sums[key] += sum over the queries that see it of left[key][query] * right[query]
  static void AddToKeys(const Keys* seen, int count, int keys, const Packed* left,
                        const Packed* right, int64_t right_tile, int64_t columns, float* sums) {
    for (int64_t c = 0; c < columns; c += kTile) {
      const int vectors = static_cast<int>(Least(kTile, columns - c) / kLanes);
      for (int r = 0; r < keys; r += kGroupKeys) {
        // Tiles that see a group follow each other, but for those without any visible pair.
        const auto sees = [&](int t) { return seen[t].begin <= r && r < seen[t].end; };
        int begin = 0;
        while (begin < count) {
          while (begin < count && !sees(begin)) ++begin;
          int end = begin;
          while (end < count && sees(end)) ++end;
          if (begin == end) break;
          Product::Multiply(vectors, static_cast<int>(Least(kGroupKeys, keys - r)),
                            left + r * kStride + begin * kTile,
                            right + c / kTile * right_tile + int64_t{begin} * kTile * kTile,
                            (end - begin) * kTile / kPerDword, sums + r * columns + c, columns,
                            true);
          begin = end;
        }
      }
    }
  }

  // w.bias[key][query] for the groups `k` of keys and the tile of queries from `row` on. Says
  // whether any of it is visible.
  static bool FillBias(const FlashProblem& p, const FlashTask& task, int64_t head_q, int64_t key,
                       int keys, int64_t row, const Keys& k, Workspace& w) {
    const int n = static_cast<int>(Least(k.end, keys)) - k.begin;
    for (int i = 0; i < kTile; ++i) {
      float* bias = w.rows + i * kRowFloats;
      if (row + i < p.seqlen_q) {
        FillRowBias(p, task, head_q, row + i, key + k.begin, n, bias);
        for (int j = n; j < k.end - k.begin; ++j) bias[j] = kNegInf;
      } else {
        for (int j = 0; j < k.end - k.begin; ++j) bias[j] = kNegInf;
      }
    }
    auto visible = hn::MaskFalse(FloatTag());
    for (int i = 0; i < kTile; i += static_cast<int>(kLanes)) {
      const float* rows[kLanes];
      for (int r = 0; r < kLanes; ++r) rows[r] = w.rows + (i + r) * kRowFloats;
      for (int j = 0; j < k.end - k.begin; j += 4) {
        float* dst = w.bias + (k.begin + j) * kTile + i;
        TransposeFourDwords(rows, j, kTile, reinterpret_cast<uint32_t*>(dst));
        for (int d = 0; d < 4; ++d) {
          const FloatVec x = hn::LoadU(FloatTag(), dst + d * kTile);
          visible = hn::Or(visible, hn::Ne(x, Set(kNegInf)));
        }
      }
    }
    return !hn::AllFalse(FloatTag(), visible);
  }

  // P and dS of the groups `k` of keys and the tile of queries from `row` on, to columns `column`
  // on of w.p and w.ds.
  template <bool kTransformed>
  static void Weigh(const FlashProblem& p, const FlashTask& task, int64_t key, int keys,
                    int64_t row, const Keys& k, const float* shift, const float* delta, int column,
                    Workspace& w) {
    using Stored = std::conditional_t<kBf16, BFloat16, float>;
    const ScoreMap map(p);
    const FloatVec of_score = Set(kNatural ? p.scale : p.scale * kLog2E);
    const FloatVec hidden = Set(kNegInf);
    for (int r = k.begin; r < k.end; ++r) {
      const QueryRange range = r < keys ? VisibleQueries(p, key + r) : QueryRange{row, row};
      const int from = static_cast<int>(Least(Most(range.begin - row, 0), kTile));
      const int to = static_cast<int>(Most(Least(range.end - row, kTile), 0));
      const bool all = from == 0 && to == kTile;
      FloatVec key_bias = Set(0.0f);
      if (kTransformed && task.key_bias != nullptr && r < keys) {
        key_bias = Set(task.key_bias[key + r - task.keys.begin]);
      }
      FloatVec weight[kTileVectors];
      FloatVec grad[kTileVectors];
      HWY_UNROLL(4)
      for (int v = 0; v < kTileVectors; ++v) {
        const int i = v * static_cast<int>(kLanes);
        FloatVec t = hn::LoadU(FloatTag(), w.s + r * kTile + i);
        FloatVec slope = Set(1.0f);
        if constexpr (kTransformed) {
          t = map(t, &slope);
          const FloatVec bias =
              task.row_bias ? hn::LoadU(FloatTag(), w.bias + r * kTile + i) : key_bias;
          t = AddBias(t, bias);
        }
        if (!all) t = hn::IfThenElse(IsInside(i, from, to), t, hidden);
        const FloatVec s = hn::LoadU(FloatTag(), shift + i);
        FloatVec exponent = kTransformed ? hn::Sub(t, s) : hn::MulSub(t, of_score, s);
        if constexpr (kTransformed || kNatural) exponent = hn::Mul(exponent, Set(kLog2E));
        const auto unseen = hn::Eq(t, hidden);
        weight[v] = hn::IfThenZeroElse(unseen, AnyExpWeight<kBf16>(exponent));
        const FloatVec dp =
            hn::Sub(hn::LoadU(FloatTag(), w.dp + r * kTile + i), hn::LoadU(FloatTag(), delta + i));
        FloatVec ds = hn::Mul(weight[v], dp);
        if constexpr (kTransformed) ds = hn::Mul(ds, slope);
        grad[v] = hn::IfThenZeroElse(unseen, ds);
      }
      Packed* p_row = w.p + r * kStride + column;
      Packed* ds_row = w.ds + r * kStride + column;
      HWY_UNROLL(2)
      for (int v = 0; v < kTileVectors; v += 2) {
        StorePair<false>(weight[v], weight[v + 1], reinterpret_cast<Stored*>(p_row + v * kLanes));
        StorePair<false>(grad[v], grad[v + 1], reinterpret_cast<Stored*>(ds_row + v * kLanes));
      }
    }
  }

  static void WriteQueries(const FlashBackwardProblem& p, int64_t batch, int64_t head_q,
                           TileRange tiles, const float* grad_q, void* workspace) {
    const Shape shape(p);
    float* out = static_cast<Workspace*>(workspace)->rows;
    for (int64_t tile = tiles.begin; tile < tiles.end; ++tile) {
      const float* sums = grad_q + tile * shape.depth_qk * kTile;
      for (int i = 0; i < kTile && tile * kTile + i < p.seqlen_q; i += 4) {
        for (int64_t d = 0; d < shape.depth_qk; d += kLanes) {
          const float* rows[kLanes];
          for (int64_t r = 0; r < kLanes; ++r) {
            rows[r] = sums + (d + r < shape.depth_qk ? d + r : 0) * kTile;
          }
          TransposeFourDwords(rows, i, kRowFloats, reinterpret_cast<uint32_t*>(out + d));
        }
        for (int64_t r = 0; r < 4 && tile * kTile + i + r < p.seqlen_q; ++r) {
          const int64_t row = tile * kTile + i + r;
          WriteRow(
              out + r * kRowFloats, p.scale, p.dim_qk, p.dtype,
              const_cast<char*>(RowOf(p.grad_q, p.grad_q_stride, batch, head_q, row, p.dtype)));
        }
      }
    }
  }

  static void WriteKeys(const FlashBackwardProblem& p, int64_t batch, int64_t head_kv,
                        int64_t begin, int64_t end, const float* grad_k, const float* grad_v) {
    const Shape shape(p);
    for (int64_t key = begin; key < end; ++key) {
      WriteRow(grad_k + key * shape.columns_qk, p.scale, p.dim_qk, p.dtype,
               const_cast<char*>(RowOf(p.grad_k, p.grad_k_stride, batch, head_kv, key, p.dtype)));
      WriteRow(grad_v + key * shape.columns_v, 1.0f, p.dim_v, p.dtype,
               const_cast<char*>(RowOf(p.grad_v, p.grad_v_stride, batch, head_kv, key, p.dtype)));
    }
  }
};

}  // namespace kpt::cpu::KPT_SIMD_NS
HWY_AFTER_NAMESPACE();

#endif  // KPT_KERNELS_ATTENTION_CPU_FLASH_BACKWARD_H_

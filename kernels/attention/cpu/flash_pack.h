// Packing of one KV head into the order in which the matrix products read it.
//
// A dword holds one float or two bfloat16 of neighbouring depth (K) or neighbouring keys (V).
//   K: [keys / kTile][depth dwords][kTile keys]       scores: depth is summed over
//   V: [columns / kTile][key dwords][kTile columns]   outputs: keys are summed over
// Keys, depth and columns are padded with zeros; inputs are read only where they exist.
//
// Included by files compiled once per instruction set: everything lies in KPT_SIMD_NS.
#ifndef KPT_KERNELS_ATTENTION_CPU_FLASH_PACK_H_
#define KPT_KERNELS_ATTENTION_CPU_FLASH_PACK_H_

#include "kernels/attention/cpu/flash_block.h"

HWY_BEFORE_NAMESPACE();
namespace kpt::cpu::KPT_SIMD_NS {

// Sizes of the packed form, in elements of Packed unless they say dwords. Engine: see
// flash_forward.h.
template <class Engine>
struct PackedShape {
  using Packed = typename Engine::Packed;
  static constexpr int kPerDword = 4 / static_cast<int>(sizeof(Packed));

  PackedShape(const FlashProblem& p, int64_t num_keys)
      : keys(RoundUp(num_keys, Engine::kTile > 32 ? Engine::kTile : 32)),
        depth_dwords(RoundUp(p.dim_qk, Engine::kDepthAlign) / kPerDword),
        columns(RoundUp(p.dim_v, Engine::kColumnAlign)),
        k_tile(depth_dwords * Engine::kTile * kPerDword),
        v_tile(keys * Engine::kTile) {}

  int64_t k_elements() const { return keys / Engine::kTile * k_tile; }
  int64_t v_elements() const { return RoundUp(columns, Engine::kTile) / Engine::kTile * v_tile; }

  int64_t keys;
  int64_t depth_dwords;
  int64_t columns;
  int64_t k_tile;  // elements of one tile of kTile keys
  int64_t v_tile;  // elements of one tile of kTile columns
};

using DwordTag = hn::RebindToUnsigned<FloatTag>;
using DwordVec = hn::Vec<DwordTag>;

// The four dwords at `rows[first + 4 b] + offset` as block b of a vector.
template <class Packed>
KPT_SIMD_INLINE DwordVec LoadBlocks(const Packed* const* rows, int first, int64_t offset) {
  const hn::Full128<uint32_t> d4;
  const auto block = [&](int b) {
    return hn::LoadU(d4, reinterpret_cast<const uint32_t*>(rows[first + 4 * b] + offset));
  };
  if constexpr (kLanes == 4) {
    return block(0);
  } else if constexpr (kLanes == 8) {
    return hn::Combine(DwordTag(), block(1), block(0));
  } else {
    const hn::Half<DwordTag> d8;
    return hn::Combine(DwordTag(), hn::Combine(d8, block(3), block(2)),
                       hn::Combine(d8, block(1), block(0)));
  }
}

// dst[i * stride + r] = dword i of row r, for four dwords at `offset` of kLanes rows.
template <class Packed>
KPT_SIMD_INLINE void TransposeFourDwords(const Packed* const* rows, int64_t offset, int64_t stride,
                                         uint32_t* dst) {
  const DwordTag d;
  const hn::RebindToUnsigned<hn::RepartitionToWide<DwordTag>> d64;
  const DwordVec a = LoadBlocks(rows, 0, offset);
  const DwordVec b = LoadBlocks(rows, 1, offset);
  const DwordVec c = LoadBlocks(rows, 2, offset);
  const DwordVec e = LoadBlocks(rows, 3, offset);
  const auto ab01 = hn::BitCast(d64, hn::InterleaveLower(d, a, b));
  const auto ab23 = hn::BitCast(d64, hn::InterleaveUpper(d, a, b));
  const auto ce01 = hn::BitCast(d64, hn::InterleaveLower(d, c, e));
  const auto ce23 = hn::BitCast(d64, hn::InterleaveUpper(d, c, e));
  hn::StoreU(hn::BitCast(d, hn::InterleaveLower(d64, ab01, ce01)), d, dst);
  hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(d64, ab01, ce01)), d, dst + stride);
  hn::StoreU(hn::BitCast(d, hn::InterleaveLower(d64, ab23, ce23)), d, dst + 2 * stride);
  hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(d64, ab23, ce23)), d, dst + 3 * stride);
}

template <class Engine, class B>
[[maybe_unused]] static void PackKeys(const FlashProblem& p, const FlashTask& task, B& block) {
  using Packed = typename Engine::Packed;
  constexpr int kPerDword = PackedShape<Engine>::kPerDword;
  const int64_t keys = task.keys.end - task.keys.begin;
  const PackedShape<Engine> shape(p, keys);
  const int64_t depth = shape.depth_dwords * kPerDword;
  // Rows are read 16 bytes at a time.
  const bool in_place =
      IsPackedType<Packed>(p.dtype) && p.dim_qk * static_cast<int64_t>(sizeof(Packed)) % 16 == 0;
  const int64_t readable = in_place ? p.dim_qk / kPerDword : shape.depth_dwords;
  const char* base = RowOf(p.k, p.k_stride, task.batch, task.head_kv, task.keys.begin, p.dtype);
  const int64_t row_bytes = p.k_stride.row * ItemSize(p.dtype);
  uint32_t* out = static_cast<uint32_t*>(task.packed_k);
  for (int64_t j = 0; j < shape.keys; j += kLanes) {
    uint32_t* dst =
        out + j / Engine::kTile * (shape.depth_dwords * Engine::kTile) + j % Engine::kTile;
    const Packed* rows[kLanes];
    for (int64_t i = 0; i < kLanes; ++i) {
      Packed* copy = block.rows + i * B::kPackedStride;
      const char* src = base + (j + i) * row_bytes;
      if (j + i >= keys) {
        std::memset(copy, 0, static_cast<size_t>(depth) * sizeof(Packed));
      } else if (!in_place) {
        CopyRow(src, p.dtype, p.dim_qk, depth, copy);
      }
      rows[i] = j + i < keys && in_place ? reinterpret_cast<const Packed*>(src) : copy;
    }
    for (int64_t d = 0; d < readable; d += 4) {
      TransposeFourDwords(rows, d * kPerDword, Engine::kTile, dst + d * Engine::kTile);
    }
    for (int64_t d = readable; d < shape.depth_dwords; ++d) {
      hn::StoreU(hn::Zero(DwordTag()), DwordTag(), dst + d * Engine::kTile);
    }
  }
}

#if defined(__AVX512BW__)
// 32 columns of two keys, interleaved so that a dword holds one column of both.
KPT_SIMD_INLINE void InterleaveKeys(const uint16_t* a, const uint16_t* b, uint32_t* low,
                                    uint32_t* high) {
  const __m512i first = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40,
                                         8, 39, 7, 38, 6, 37, 5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
  const __m512i second = _mm512_add_epi16(first, _mm512_set1_epi16(16));
  const __m512i x = _mm512_loadu_si512(a);
  const __m512i y = _mm512_loadu_si512(b);
  _mm512_storeu_si512(low, _mm512_permutex2var_epi16(x, first, y));
  _mm512_storeu_si512(high, _mm512_permutex2var_epi16(x, second, y));
}
#endif

template <class Engine, class B>
[[maybe_unused]] static void PackValues(const FlashProblem& p, const FlashTask& task, B& block) {
  using Packed = typename Engine::Packed;
  constexpr int64_t kTile = Engine::kTile;
  const int64_t keys = task.keys.end - task.keys.begin;
  const PackedShape<Engine> shape(p, keys);
  const bool in_place = IsPackedType<Packed>(p.dtype) && p.dim_v == shape.columns;
  const char* base = RowOf(p.v, p.v_stride, task.batch, task.head_kv, task.keys.begin, p.dtype);
  const int64_t row_bytes = p.v_stride.row * ItemSize(p.dtype);
  // Row `key`, readable over all padded columns.
  const auto row = [&](int64_t key, Packed* copy) -> const Packed* {
    if (key >= keys) {
      std::memset(copy, 0, static_cast<size_t>(shape.columns) * sizeof(Packed));
      return copy;
    }
    const char* src = base + key * row_bytes;
    if (in_place) return reinterpret_cast<const Packed*>(src);
    CopyRow(src, p.dtype, p.dim_v, shape.columns, copy);
    return copy;
  };
  const int64_t padded = RoundUp(keys, Engine::kKeyAlign);
  if constexpr (sizeof(Packed) == 4) {
    float* out = static_cast<float*>(task.packed_v);
    for (int64_t j = 0; j < padded; ++j) {
      const float* src = row(j, block.rows);
      for (int64_t c = 0; c < shape.columns; c += kLanes) {
        hn::StoreU(hn::LoadU(FloatTag(), src + c), FloatTag(),
                   out + c / kTile * shape.v_tile + j * kTile + c % kTile);
      }
    }
  }
#if defined(__AVX512BW__)
  if constexpr (sizeof(Packed) == 2) {
    uint32_t* out = static_cast<uint32_t*>(task.packed_v);
    const int64_t tile_dwords = shape.v_tile / 2;
    for (int64_t j = 0; j < padded; j += 2) {
      const uint16_t* a = row(j, block.rows);
      const uint16_t* b = row(j + 1, block.rows + B::kPackedStride);
      uint32_t* dst = out + j / 2 * kTile;
      for (int64_t c = 0; c < shape.columns; c += 32) {
        const int64_t d = c + 16;
        InterleaveKeys(a + c, b + c, dst + c / kTile * tile_dwords + c % kTile,
                       dst + d / kTile * tile_dwords + d % kTile);
      }
    }
  }
#endif
}

}  // namespace kpt::cpu::KPT_SIMD_NS
HWY_AFTER_NAMESPACE();

#endif  // KPT_KERNELS_ATTENTION_CPU_FLASH_PACK_H_

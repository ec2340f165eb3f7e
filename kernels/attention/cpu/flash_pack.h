// Packing of the rows of one head into the order in which the matrix products read them.
//
// A dword holds one float or two bfloat16, of neighbouring columns where columns are summed over
// (K, for the scores) and of neighbouring rows where rows are (V, for the outputs).
//   by columns: [rows / kTile][column dwords][kTile rows]
//   by rows:    [columns / kTile][row dwords][kTile columns]
// Rows and columns are padded with zeros; inputs are read only where they exist.
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

// Rows of one head as they come: row r at data + r * row_bytes.
struct SourceRows {
  SourceRows(const void* tensor, const HeadStrides& stride, int64_t batch, int64_t head,
             int64_t first, int64_t rows, int64_t cols, DType dtype)
      : data(RowOf(tensor, stride, batch, head, first, dtype)),
        row_bytes(stride.row * ItemSize(dtype)),
        rows(rows),
        cols(cols),
        dtype(dtype) {}
  // Rows that are packed again: `stride` elements apart.
  template <class Packed>
  SourceRows(const Packed* packed, int64_t stride, int64_t rows, int64_t cols)
      : data(reinterpret_cast<const char*>(packed)),
        row_bytes(stride * static_cast<int64_t>(sizeof(Packed))),
        rows(rows),
        cols(cols),
        dtype(sizeof(Packed) == 2 ? DType::kBFloat16 : DType::kFloat32) {}

  const char* data;
  int64_t row_bytes;
  int64_t rows;
  int64_t cols;
  DType dtype;
};

// `padded_rows` is a multiple of kLanes. `scratch` has room for kLanes rows, kScratchStride apart.
template <int kTile, int kScratchStride, class Packed>
[[maybe_unused]] static void PackByColumns(const SourceRows& src, int64_t padded_rows,
                                           int64_t column_dwords, Packed* scratch, Packed* packed) {
  constexpr int kPerDword = 4 / static_cast<int>(sizeof(Packed));
  const int64_t columns = column_dwords * kPerDword;
  // Rows are read 16 bytes at a time.
  const bool in_place =
      IsPackedType<Packed>(src.dtype) && src.cols * static_cast<int64_t>(sizeof(Packed)) % 16 == 0;
  const int64_t readable = in_place ? src.cols / kPerDword : column_dwords;
  uint32_t* out = reinterpret_cast<uint32_t*>(packed);
  for (int64_t j = 0; j < padded_rows; j += kLanes) {
    uint32_t* dst = out + j / kTile * (column_dwords * kTile) + j % kTile;
    const Packed* rows[kLanes];
    for (int64_t i = 0; i < kLanes; ++i) {
      Packed* copy = scratch + i * kScratchStride;
      const char* row = src.data + (j + i) * src.row_bytes;
      if (j + i >= src.rows) {
        std::memset(copy, 0, static_cast<size_t>(columns) * sizeof(Packed));
      } else if (!in_place) {
        CopyRow(row, src.dtype, src.cols, columns, copy);
      }
      rows[i] = j + i < src.rows && in_place ? reinterpret_cast<const Packed*>(row) : copy;
    }
    for (int64_t d = 0; d < readable; d += 4) {
      TransposeFourDwords(rows, d * kPerDword, kTile, dst + d * kTile);
    }
    for (int64_t d = readable; d < column_dwords; ++d) {
      hn::StoreU(hn::Zero(DwordTag()), DwordTag(), dst + d * kTile);
    }
  }
}

#if defined(__AVX512BW__)
// 32 columns of two rows, interleaved so that a dword holds one column of both.
KPT_SIMD_INLINE void InterleaveRows(const uint16_t* a, const uint16_t* b, uint32_t* low,
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

// `padded_rows` is even and `columns` a multiple of kLanes dwords; tiles of columns are `tile`
// elements apart. `scratch` has room for two rows, kScratchStride apart.
template <int kTile, int kScratchStride, class Packed>
[[maybe_unused]] static void PackByRows(const SourceRows& src, int64_t padded_rows, int64_t columns,
                                        int64_t tile, Packed* scratch, Packed* packed) {
  const bool in_place = IsPackedType<Packed>(src.dtype) && src.cols == columns;
  // Row `j`, readable over all padded columns.
  const auto row = [&](int64_t j, Packed* copy) -> const Packed* {
    if (j >= src.rows) {
      std::memset(copy, 0, static_cast<size_t>(columns) * sizeof(Packed));
      return copy;
    }
    const char* at = src.data + j * src.row_bytes;
    if (in_place) return reinterpret_cast<const Packed*>(at);
    CopyRow(at, src.dtype, src.cols, columns, copy);
    return copy;
  };
  if constexpr (sizeof(Packed) == 4) {
    for (int64_t j = 0; j < padded_rows; ++j) {
      const float* from = row(j, scratch);
      for (int64_t c = 0; c < columns; c += kLanes) {
        hn::StoreU(hn::LoadU(FloatTag(), from + c), FloatTag(),
                   packed + c / kTile * tile + j * kTile + c % kTile);
      }
    }
  }
#if defined(__AVX512BW__)
  if constexpr (sizeof(Packed) == 2) {
    uint32_t* out = reinterpret_cast<uint32_t*>(packed);
    const int64_t tile_dwords = tile / 2;
    for (int64_t j = 0; j < padded_rows; j += 2) {
      const uint16_t* a = row(j, scratch);
      const uint16_t* b = row(j + 1, scratch + kScratchStride);
      uint32_t* dst = out + j / 2 * kTile;
      for (int64_t c = 0; c < columns; c += 32) {
        const int64_t d = c + 16;
        InterleaveRows(a + c, b + c, dst + c / kTile * tile_dwords + c % kTile,
                       dst + d / kTile * tile_dwords + d % kTile);
      }
    }
  }
#endif
}

}  // namespace kpt::cpu::KPT_SIMD_NS
HWY_AFTER_NAMESPACE();

#endif  // KPT_KERNELS_ATTENTION_CPU_FLASH_PACK_H_

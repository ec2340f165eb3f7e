// Products of bytes in portable SIMD: fp8 as floats, int8 as pairs of int16.
#include "kernels/base/simd_fp8.h"
#include "kernels/base/simd_io.h"

#define KPT_NEST_EMIT EmitRows

#include "kernels/gemm/cpu/byte_nest.h"

HWY_BEFORE_NAMESPACE();
namespace kpt::cpu::KPT_SIMD_NS {
namespace {

using Int32Tag = hn::RebindToSigned<FloatTag>;
using Int16Tag = hn::Repartition<int16_t, Int32Tag>;
using Int32Vec = hn::Vec<Int32Tag>;

constexpr int kTileVecs = kLanes >= 16 ? 4 : 2;
constexpr int64_t kTileCols = kTileVecs * kLanes;

// Codes [0, 64) of 16 rows as 16 x 16 dwords, transposed; zero beyond `valid` rows and `count`.
void TransposeBytes(const uint8_t* rows, int64_t stride, int64_t valid, int64_t count,
                    uint32_t* to) {
  alignas(64) uint32_t block[kPanelGroup * kPanelGroup];
  const int64_t bytes = Least(count, kUnit);
  for (int64_t i = 0; i < kPanelGroup; ++i) {
    uint32_t* row = block + i * kPanelGroup;
    if (i >= valid || bytes < kUnit) std::memset(row, 0, kUnit);
    if (i < valid) std::memcpy(row, rows + i * stride, static_cast<size_t>(bytes));
  }
  const hn::FixedTag<uint32_t, 4> d;
  const hn::RepartitionToWide<decltype(d)> dw;
  for (int64_t i = 0; i < kPanelGroup; i += 4) {
    for (int64_t j = 0; j < kPanelGroup; j += 4) {
      const uint32_t* from = block + i * kPanelGroup + j;
      const auto r0 = hn::Load(d, from);
      const auto r1 = hn::Load(d, from + kPanelGroup);
      const auto r2 = hn::Load(d, from + 2 * kPanelGroup);
      const auto r3 = hn::Load(d, from + 3 * kPanelGroup);
      const auto lo01 = hn::BitCast(dw, hn::InterleaveLower(d, r0, r1));
      const auto lo23 = hn::BitCast(dw, hn::InterleaveLower(d, r2, r3));
      const auto hi01 = hn::BitCast(dw, hn::InterleaveUpper(d, r0, r1));
      const auto hi23 = hn::BitCast(dw, hn::InterleaveUpper(d, r2, r3));
      uint32_t* at = to + j * kPanelGroup + i;
      hn::Store(hn::BitCast(d, hn::InterleaveLower(dw, lo01, lo23)), d, at);
      hn::Store(hn::BitCast(d, hn::InterleaveUpper(dw, lo01, lo23)), d, at + kPanelGroup);
      hn::Store(hn::BitCast(d, hn::InterleaveLower(dw, hi01, hi23)), d, at + 2 * kPanelGroup);
      hn::Store(hn::BitCast(d, hn::InterleaveUpper(dw, hi01, hi23)), d, at + 3 * kPanelGroup);
    }
  }
}

// fp8 codes to floats, in their own order.
class FloatTile {
 public:
  static constexpr int64_t kPerDword = 1;
  static constexpr int kTileRows = 6;
  static constexpr bool kExact = false;

  explicit FloatTile(const ByteGemm& g)
      : a_is_e5m2_(g.a_dtype == DType::kFloat8E5M2), b_is_e5m2_(g.b_dtype == DType::kFloat8E5M2) {}

  void ConvertA(const uint8_t* codes, int64_t count, uint32_t* to) const {
    a_is_e5m2_ ? ConvertAs<E5M2Format>(codes, count, to) : ConvertAs<E4M3Format>(codes, count, to);
  }
  void PackB(const uint8_t* rows, int64_t stride, int64_t valid, int64_t count, uint32_t* to,
             int32_t* /*sums*/) const {
    b_is_e5m2_ ? PackAs<E5M2Format>(rows, stride, valid, count, to)
               : PackAs<E4M3Format>(rows, stride, valid, count, to);
  }
  void Multiply(int rows, int64_t depth, const uint32_t* a, int64_t lda, const uint32_t* b,
                const float* row, const float* column, bool accumulate, float* sums,
                PiecePrefetch* ahead) const;

 private:
  template <class Format>
  static void ConvertAs(const uint8_t* codes, int64_t count, uint32_t* to) {
    const hn::Rebind<uint8_t, FloatTag> d8;
    const int64_t padded = RoundToUnit(count);
    for (int64_t i = 0; i < padded; i += kLanes) {
      const int64_t left = count - i;
      const auto v = left >= kLanes ? hn::LoadU(d8, codes + i)
                     : left > 0     ? hn::LoadN(d8, codes + i, static_cast<size_t>(left))
                                    : hn::Zero(d8);
      hn::Store(DecodeByte<Format, 0>(hn::PromoteTo(Int32Tag(), v)), FloatTag(),
                reinterpret_cast<float*>(to) + i);
    }
  }

  template <class Format>
  static void PackAs(const uint8_t* rows, int64_t stride, int64_t valid, int64_t count,
                     uint32_t* to) {
    alignas(64) uint32_t block[kPanelGroup * kPanelGroup];
    const Int32Tag di;
    for (; count > 0; count -= kUnit, rows += kUnit) {
      TransposeBytes(rows, stride, valid, count, block);
      for (int64_t d = 0; d < kPanelGroup; ++d, to += 4 * kPanelCols) {
        for (int64_t j = 0; j < kPanelGroup; j += kLanes) {
          const auto v =
              hn::Load(di, reinterpret_cast<const int32_t*>(block) + d * kPanelGroup + j);
          float* at = reinterpret_cast<float*>(to) + j;
          hn::Store(DecodeByte<Format, 0>(v), FloatTag(), at);
          hn::Store(DecodeByte<Format, 1>(v), FloatTag(), at + kPanelCols);
          hn::Store(DecodeByte<Format, 2>(v), FloatTag(), at + 2 * kPanelCols);
          hn::Store(DecodeByte<Format, 3>(v), FloatTag(), at + 3 * kPanelCols);
        }
      }
    }
  }

  bool a_is_e5m2_, b_is_e5m2_;
};

// int8 to pairs of int16: of every 64 codes first the pairs (k, k+2), then (k+1, k+3), each for
// k = 0, 4, 8, ...
class PairTile {
 public:
  static constexpr int64_t kPerDword = 2;
  static constexpr int kTileRows = 6;
  static constexpr bool kExact = true;

  explicit PairTile(const ByteGemm&) {}

  void ConvertA(const uint8_t* codes, int64_t count, uint32_t* to) const {
    alignas(64) int32_t block[kPanelGroup];
    for (; count > 0; count -= kUnit, codes += kUnit, to += 2 * kPanelGroup) {
      std::memset(block, 0, sizeof(block));
      std::memcpy(block, codes, static_cast<size_t>(Least(count, kUnit)));
      for (int64_t i = 0; i < kPanelGroup; i += kLanes) {
        Int32Vec even, odd;
        Pairs(hn::Load(Int32Tag(), block + i), &even, &odd);
        hn::Store(even, Int32Tag(), reinterpret_cast<int32_t*>(to) + i);
        hn::Store(odd, Int32Tag(), reinterpret_cast<int32_t*>(to) + kPanelGroup + i);
      }
    }
  }
  void PackB(const uint8_t* rows, int64_t stride, int64_t valid, int64_t count, uint32_t* to,
             int32_t* sums) const {
    alignas(64) uint32_t block[kPanelGroup * kPanelGroup];
    const Int32Tag di;
    const Int16Tag dw;
    const auto ones = hn::Set(dw, int16_t{1});
    for (; count > 0; count -= kUnit, rows += kUnit, to += 2 * kPanelGroup * kPanelCols) {
      TransposeBytes(rows, stride, valid, count, block);
      for (int64_t d = 0; d < kPanelGroup; ++d) {
        for (int64_t j = 0; j < kPanelGroup; j += kLanes) {
          Int32Vec even, odd;
          Pairs(hn::Load(di, reinterpret_cast<const int32_t*>(block) + d * kPanelGroup + j), &even,
                &odd);
          int32_t* at = reinterpret_cast<int32_t*>(to) + d * kPanelCols + j;
          hn::Store(even, di, at);
          hn::Store(odd, di, at + kPanelGroup * kPanelCols);
          const auto both = hn::Add(hn::BitCast(dw, even), hn::BitCast(dw, odd));
          hn::StoreU(hn::Add(hn::LoadU(di, sums + j), hn::WidenMulPairwiseAdd(di, both, ones)), di,
                     sums + j);
        }
      }
    }
  }
  void Multiply(int rows, int64_t depth, const uint32_t* a, int64_t lda, const uint32_t* b,
                const float* row, const float* column, bool accumulate, float* sums,
                PiecePrefetch* ahead) const;

  // Integer sums [rows][cols] to floats in place.
  void Finish(const ByteGemm& g, int64_t m0, int64_t rows, const float* row_scale,
              const float* column_scale, const int32_t* column_sums, int64_t cols,
              float* sums) const {
    const Int32Tag di;
    const FloatTag df;
    for (int64_t i = 0; i < rows; ++i, sums += cols) {
      const double zero = g.ZeroPoint(m0 + i);
      const auto scale = hn::Set(df, row_scale[i]);
      for (int64_t j = 0; j < cols; j += kLanes) {
        const auto dot = hn::LoadU(di, reinterpret_cast<const int32_t*>(sums) + j);
        auto v = hn::ConvertTo(df, dot);
        if (zero != 0) {
          alignas(64) int32_t dots[kLanes];
          alignas(64) float exact[kLanes];
          hn::Store(dot, di, dots);
          for (int64_t c = 0; c < kLanes; ++c) {
            exact[c] = static_cast<float>(dots[c] - zero * column_sums[j + c]);
          }
          v = hn::Load(df, exact);
        }
        hn::StoreU(hn::Mul(hn::Mul(v, scale), hn::LoadU(df, column_scale + j)), df, sums + j);
      }
    }
  }

 private:
  static HWY_INLINE void Pairs(Int32Vec codes, Int32Vec* even, Int32Vec* odd) {
    const auto v = hn::BitCast(Int16Tag(), codes);
    *even = hn::BitCast(Int32Tag(), hn::ShiftRight<8>(hn::ShiftLeft<8>(v)));
    *odd = hn::BitCast(Int32Tag(), hn::ShiftRight<8>(v));
  }
};

struct FloatDot {
  using Tag = FloatTag;
  static HWY_INLINE FloatVec Dot(FloatVec a, FloatVec b, FloatVec c) { return hn::MulAdd(a, b, c); }
  static HWY_INLINE FloatVec Scaled(FloatVec v, FloatVec row, FloatVec column) {
    return hn::Mul(hn::Mul(v, column), row);
  }
  // Said in full, not left to the compiler to contract or not.
  static HWY_INLINE FloatVec Added(FloatVec v, FloatVec row, FloatVec column, FloatVec sum) {
    return hn::MulAdd(hn::Mul(v, column), row, sum);
  }
};
struct PairDot {
  using Tag = Int32Tag;
  static HWY_INLINE Int32Vec Dot(Int32Vec a, Int32Vec b, Int32Vec c) {
    const Int16Tag dw;
    return hn::Add(c, hn::WidenMulPairwiseAdd(Tag(), hn::BitCast(dw, a), hn::BitCast(dw, b)));
  }
  static HWY_INLINE Int32Vec Scaled(Int32Vec v, FloatVec, FloatVec) { return v; }
  static HWY_INLINE Int32Vec Added(Int32Vec v, FloatVec, FloatVec, Int32Vec sum) {
    return hn::Add(v, sum);
  }
};

template <class Op, int kRows>
HWY_NOINLINE void MultiplyRows(int64_t depth, const uint32_t* a, int64_t lda, const uint32_t* b,
                               const float* row, const float* column, bool accumulate, float* sums,
                               PiecePrefetch* ahead) {
  using Elem = hn::TFromD<typename Op::Tag>;
  const typename Op::Tag d;
  for (int64_t col = 0; col < kPanelCols; col += kTileCols) {
    hn::Vec<typename Op::Tag> acc[kRows][kTileVecs];
    HWY_UNROLL(6)
    for (int i = 0; i < kRows; ++i) {
      HWY_UNROLL(4)
      for (int j = 0; j < kTileVecs; ++j) acc[i][j] = hn::Zero(d);
    }
    const Elem* from = reinterpret_cast<const Elem*>(b) + col;
    for (int64_t k = 0; k < depth; ++k, from += kPanelCols) {
      if (col == 0 && k % kPrefetchDepth == 0) ahead->Tick();
      hn::Vec<typename Op::Tag> v[kTileVecs];
      HWY_UNROLL(4)
      for (int j = 0; j < kTileVecs; ++j) v[j] = hn::Load(d, from + j * kLanes);
      HWY_UNROLL(6)
      for (int i = 0; i < kRows; ++i) {
        const auto x = hn::Set(d, reinterpret_cast<const Elem*>(a)[i * lda + k]);
        HWY_UNROLL(4)
        for (int j = 0; j < kTileVecs; ++j) acc[i][j] = Op::Dot(x, v[j], acc[i][j]);
      }
    }
    HWY_UNROLL(6)
    for (int i = 0; i < kRows; ++i) {
      const auto r = hn::Set(FloatTag(), row[i]);
      HWY_UNROLL(4)
      for (int j = 0; j < kTileVecs; ++j) {
        const int64_t at = col + j * kLanes;
        Elem* to = reinterpret_cast<Elem*>(sums) + i * kPanelCols + at;
        const auto c = hn::Load(FloatTag(), column + at);
        hn::Store(
            accumulate ? Op::Added(acc[i][j], r, c, hn::Load(d, to)) : Op::Scaled(acc[i][j], r, c),
            d, to);
      }
    }
  }
}

template <class Op>
void MultiplyTile(int rows, int64_t depth, const uint32_t* a, int64_t lda, const uint32_t* b,
                  const float* row, const float* column, bool accumulate, float* sums,
                  PiecePrefetch* ahead) {
  switch (rows) {
    case 1:
      return MultiplyRows<Op, 1>(depth, a, lda, b, row, column, accumulate, sums, ahead);
    case 2:
      return MultiplyRows<Op, 2>(depth, a, lda, b, row, column, accumulate, sums, ahead);
    case 3:
      return MultiplyRows<Op, 3>(depth, a, lda, b, row, column, accumulate, sums, ahead);
    case 4:
      return MultiplyRows<Op, 4>(depth, a, lda, b, row, column, accumulate, sums, ahead);
    case 5:
      return MultiplyRows<Op, 5>(depth, a, lda, b, row, column, accumulate, sums, ahead);
    default:
      return MultiplyRows<Op, 6>(depth, a, lda, b, row, column, accumulate, sums, ahead);
  }
}

void FloatTile::Multiply(int rows, int64_t depth, const uint32_t* a, int64_t lda, const uint32_t* b,
                         const float* row, const float* column, bool accumulate, float* sums,
                         PiecePrefetch* ahead) const {
  MultiplyTile<FloatDot>(rows, depth, a, lda, b, row, column, accumulate, sums, ahead);
}

void PairTile::Multiply(int rows, int64_t depth, const uint32_t* a, int64_t lda, const uint32_t* b,
                        const float* row, const float* column, bool accumulate, float* sums,
                        PiecePrefetch* ahead) const {
  MultiplyTile<PairDot>(rows, depth, a, lda, b, row, column, accumulate, sums, ahead);
}

}  // namespace

bool Fp8Tiles(int num_threads, const ByteGemm& g) { return RunByteNest<FloatTile>(num_threads, g); }
bool Int8Tiles(int num_threads, const ByteGemm& g) { return RunByteNest<PairTile>(num_threads, g); }

}  // namespace kpt::cpu::KPT_SIMD_NS
HWY_AFTER_NAMESPACE();

// Portable kernels for decoded weights: a slice of the panel is decoded to fp32 (or to pairs of
// int16) in the first-level cache and used for a block of rows at once.
#include "kernels/base/parallel_for.h"
#include "kernels/base/scratch.h"
#include "kernels/base/simd_fp8.h"
#include "kernels/base/simd_io.h"
#include "kernels/gemm/cpu/quant_gemm.h"

HWY_BEFORE_NAMESPACE();
namespace kpt::cpu::KPT_SIMD_NS {
namespace {

using Int32Tag = hn::RebindToSigned<FloatTag>;
using Uint32Tag = hn::RebindToUnsigned<FloatTag>;
using Int16Tag = hn::Repartition<int16_t, Int32Tag>;

// Register tile: 6 rows x kTileVecs vectors; 24 accumulators of the 32 AVX-512 registers, 12 of 16.
constexpr int kTileRows = 6;
constexpr int kTileVecs = kLanes >= 16 ? 4 : 2;
constexpr int64_t kTileCols = kTileVecs * kLanes;
constexpr int64_t kSliceBytes = 16 * 1024;  // decoded: leaves half of a 32 KiB cache to x and sums
constexpr int64_t kBlockRows = 240;         // rows that share a decoded slice
// As in panel_gemm_simd.cc: up to kFewRows rows are summed in slices of 16 k, to be as exact as the
// dot products that others use there.
constexpr int64_t kFewRows = 3;
constexpr int64_t kFewRowsSlice = 16;
static_assert(kPanelCols % kTileCols == 0, "a panel is a whole number of tiles");

struct DecodeInt8 {
  template <int kByte>
  static HWY_INLINE FloatVec Get(hn::Vec<Int32Tag> v) {
    return hn::ConvertTo(FloatTag(), SignedByte<kByte>(v));
  }
};

template <class F>
struct DecodeFp8As {
  template <int kByte>
  static HWY_INLINE FloatVec Get(hn::Vec<Int32Tag> v) {
    return DecodeByte<F, kByte>(v);
  }
};

// `rows` dword rows of a panel to floats [4 * rows][64] (bf16: [2 * rows][64]).
template <class Decode>
void DecodeSlice(const int32_t* panel, int64_t rows, float* out) {
  const Int32Tag di;
  for (int64_t r = 0; r < rows; ++r, panel += kPanelCols, out += 4 * kPanelCols) {
    for (int64_t c = 0; c < kPanelCols; c += kLanes) {
      const auto v = hn::LoadU(di, panel + c);
      hn::StoreU(Decode::template Get<0>(v), FloatTag(), out + c);
      hn::StoreU(Decode::template Get<2>(v), FloatTag(), out + kPanelCols + c);
      hn::StoreU(Decode::template Get<1>(v), FloatTag(), out + 2 * kPanelCols + c);
      hn::StoreU(Decode::template Get<3>(v), FloatTag(), out + 3 * kPanelCols + c);
    }
  }
}

void DecodeBf16Slice(const int32_t* panel, int64_t rows, float* out) {
  const Int32Tag di;
  const auto high = hn::Set(di, static_cast<int32_t>(0xffff0000u));
  for (int64_t r = 0; r < rows; ++r, panel += kPanelCols, out += 2 * kPanelCols) {
    for (int64_t c = 0; c < kPanelCols; c += kLanes) {
      const auto v = hn::LoadU(di, panel + c);
      hn::StoreU(hn::BitCast(FloatTag(), hn::ShiftLeft<16>(v)), FloatTag(), out + c);
      hn::StoreU(hn::BitCast(FloatTag(), hn::And(v, high)), FloatTag(), out + kPanelCols + c);
    }
  }
}

// What the dwords of an int4 slice, inputs of one group, are decoded with: for 64 columns.
struct Int4Group {
  alignas(64) int32_t shift[kPanelCols];  // q + shift = c - z
  alignas(64) float scale[kPanelCols];

  Int4Group(const QuantGemm& g, int64_t p, int64_t group) {
    const float* from = g.scale + group * g.lds + p * kPanelCols;
    for (int64_t j = 0; j < kPanelCols; ++j) {
      shift[j] = g.zero_points ? 8 - g.zeros(p, group)[j] : 0;
      scale[j] = j < g.panel_cols(p) ? from[j] : 0.0f;
    }
  }
};

// Input `at` of 0..7: the low or high half of its byte in the order k, k+2, k+1, k+3.
template <int kInput>
KPT_SIMD_INLINE hn::Vec<Int32Tag> Nibble(hn::Vec<Int32Tag> v) {
  constexpr int kByte = kInput % 4 == 1 ? 2 : kInput % 4 == 2 ? 1 : kInput % 4;
  constexpr int kBit = 8 * kByte + kInput / 4 * 4;
  if constexpr (kBit == 28) {
    return hn::ShiftRight<28>(v);
  } else {
    return hn::ShiftRight<28>(hn::ShiftLeft<28 - kBit>(v));
  }
}

// `rows` dword rows of int4 to floats [8 * rows][64].
void DecodeInt4Slice(const int32_t* panel, int64_t rows, const Int4Group& group, float* out) {
  const Int32Tag di;
  const FloatTag df;
  for (int64_t r = 0; r < rows; ++r, panel += kPanelCols, out += 8 * kPanelCols) {
    for (int64_t c = 0; c < kPanelCols; c += kLanes) {
      const auto v = hn::LoadU(di, panel + c);
      const auto shift = hn::Load(di, group.shift + c);
      const auto scale = hn::Load(df, group.scale + c);
      const auto put = [&](int64_t k, hn::Vec<Int32Tag> q) {
        const auto weight = hn::Mul(hn::ConvertTo(df, hn::Add(q, shift)), scale);
        hn::StoreU(weight, df, out + k * kPanelCols + c);
      };
      put(0, Nibble<0>(v));
      put(1, Nibble<1>(v));
      put(2, Nibble<2>(v));
      put(3, Nibble<3>(v));
      put(4, Nibble<4>(v));
      put(5, Nibble<5>(v));
      put(6, Nibble<6>(v));
      put(7, Nibble<7>(v));
    }
  }
}

// The same to pairs of int16 [4 * rows][64], without the scale; adds up the columns.
void DecodeInt4Pairs(const int32_t* panel, int64_t rows, const Int4Group& group, int32_t* out,
                     int32_t* column_sums) {
  const Int32Tag di;
  const auto low_half = hn::Set(di, 0xffff);
  for (int64_t c = 0; c < kPanelCols; c += kLanes) hn::StoreU(hn::Zero(di), di, column_sums + c);
  for (int64_t r = 0; r < rows; ++r, panel += kPanelCols, out += 4 * kPanelCols) {
    for (int64_t c = 0; c < kPanelCols; c += kLanes) {
      const auto v = hn::LoadU(di, panel + c);
      const auto shift = hn::Load(di, group.shift + c);
      auto sum = hn::LoadU(di, column_sums + c);
      const auto put = [&](int64_t pair, hn::Vec<Int32Tag> a, hn::Vec<Int32Tag> b) {
        a = hn::Add(a, shift);
        b = hn::Add(b, shift);
        sum = hn::Add(sum, hn::Add(a, b));
        hn::StoreU(hn::Or(hn::And(a, low_half), hn::ShiftLeft<16>(b)), di,
                   out + pair * kPanelCols + c);
      };
      put(0, Nibble<0>(v), Nibble<1>(v));
      put(1, Nibble<2>(v), Nibble<3>(v));
      put(2, Nibble<4>(v), Nibble<5>(v));
      put(3, Nibble<6>(v), Nibble<7>(v));
      hn::StoreU(sum, di, column_sums + c);
    }
  }
}

// int8 dwords to pairs of int16: rows (k, k+1) and (k+2, k+3) of each dword row.
void DecodePairs(const int32_t* panel, int64_t rows, int32_t* out) {
  const Int32Tag di;
  const Int16Tag dw;
  for (int64_t r = 0; r < rows; ++r, panel += kPanelCols, out += 2 * kPanelCols) {
    for (int64_t c = 0; c < kPanelCols; c += kLanes) {
      const auto v = hn::BitCast(dw, hn::LoadU(di, panel + c));
      const auto even = hn::ShiftRight<8>(hn::ShiftLeft<8>(v));
      hn::StoreU(hn::BitCast(di, even), di, out + c);
      hn::StoreU(hn::BitCast(di, hn::ShiftRight<8>(v)), di, out + kPanelCols + c);
    }
  }
}

struct FloatDot {
  using Elem = float;
  using Tag = FloatTag;
  static HWY_INLINE FloatVec Dot(FloatVec a, FloatVec b, FloatVec c) { return hn::MulAdd(a, b, c); }
};
struct PairDot {
  using Elem = int32_t;  // two int16
  using Tag = Int32Tag;
  static HWY_INLINE hn::Vec<Tag> Dot(hn::Vec<Tag> a, hn::Vec<Tag> b, hn::Vec<Tag> c) {
    const Int16Tag dw;
    return hn::Add(c, hn::WidenMulPairwiseAdd(Tag(), hn::BitCast(dw, a), hn::BitCast(dw, b)));
  }
};

// sums[kRows][kTileCols] (+)= x[kRows][k] * b[k][kTileCols]; b and sums have 64 columns. A slice is
// summed from zero and then added: in two levels the rounding errors of long K stay small.
template <class Op, int kRows>
void Tile(const typename Op::Elem* x, int64_t ldx, const typename Op::Elem* b, int64_t k,
          bool accumulate, typename Op::Elem* sums) {
  const typename Op::Tag d;
  using V = hn::Vec<typename Op::Tag>;
  V acc[kRows][kTileVecs];
  for (int i = 0; i < kRows; ++i) {
    for (int j = 0; j < kTileVecs; ++j) {
      acc[i][j] = hn::Zero(d);
    }
  }
  for (int64_t g = 0; g < k; ++g, b += kPanelCols) {
    V w[kTileVecs];
    for (int j = 0; j < kTileVecs; ++j) w[j] = hn::LoadU(d, b + j * kLanes);
    for (int i = 0; i < kRows; ++i) {
      const V a = hn::Set(d, x[i * ldx + g]);
      for (int j = 0; j < kTileVecs; ++j) acc[i][j] = Op::Dot(a, w[j], acc[i][j]);
    }
  }
  for (int i = 0; i < kRows; ++i) {
    for (int j = 0; j < kTileVecs; ++j) {
      auto* at = sums + i * kPanelCols + j * kLanes;
      hn::StoreU(accumulate ? hn::Add(hn::LoadU(d, at), acc[i][j]) : acc[i][j], d, at);
    }
  }
}

template <class Op>
void Slice(const typename Op::Elem* x, int64_t ldx, const typename Op::Elem* b, int64_t k,
           int64_t rows, bool accumulate, typename Op::Elem* sums) {
  for (int64_t c = 0; c < kPanelCols; c += kTileCols) {
    int64_t r = 0;
    for (; r + kTileRows <= rows; r += kTileRows) {
      Tile<Op, kTileRows>(x + r * ldx, ldx, b + c, k, accumulate, sums + r * kPanelCols + c);
    }
    const auto* xr = x + r * ldx;
    auto* sr = sums + r * kPanelCols + c;
    switch (rows - r) {
      case 5:
        Tile<Op, 5>(xr, ldx, b + c, k, accumulate, sr);
        break;
      case 4:
        Tile<Op, 4>(xr, ldx, b + c, k, accumulate, sr);
        break;
      case 3:
        Tile<Op, 3>(xr, ldx, b + c, k, accumulate, sr);
        break;
      case 2:
        Tile<Op, 2>(xr, ldx, b + c, k, accumulate, sr);
        break;
      case 1:
        Tile<Op, 1>(xr, ldx, b + c, k, accumulate, sr);
        break;
      default:
        break;
    }
  }
}

// Calls f(row pointer of type const T*).
template <class F>
void WithRow(const QuantGemm& g, int64_t row, const F& f) {
  switch (g.x_dtype) {
    case DType::kFloat32:
      f(static_cast<const float*>(g.x) + row * g.ldx);
      return;
    case DType::kFloat16:
      f(static_cast<const Half*>(g.x) + row * g.ldx);
      return;
    default:
      f(static_cast<const BFloat16*>(g.x) + row * g.ldx);
  }
}

// A row of x as floats, zero filled to `padded`, a multiple of the vector length.
void WidenRow(const QuantGemm& g, int64_t row, int64_t padded, float* out) {
  WithRow(g, row, [&](const auto* x) {
    int64_t i = 0;
    for (; i + kLanes <= g.k; i += kLanes) hn::StoreU(Load(x + i), FloatTag(), out + i);
    for (; i < padded; i += kLanes) {
      const auto v = i < g.k ? LoadN(x + i, g.k - i) : hn::Zero(FloatTag());
      hn::StoreU(v, FloatTag(), out + i);
    }
  });
}

// Scale and zero point of a row. The comparisons are on the bits: as signed integers the largest
// is the largest positive float, as unsigned ones the most negative, and what is not finite is
// beyond both.
struct RowQuant {
  float s, inverse;
  int32_t z;
};
template <class T>
RowQuant RangeOf(const T* x, int64_t k) {
  const Int32Tag di;
  const Uint32Tag du;
  auto high = hn::Zero(di);
  auto low = hn::Zero(du);
  for (int64_t i = 0; i < k; i += kLanes) {
    const auto v = i + kLanes <= k ? Load(x + i) : LoadN(x + i, k - i);
    high = hn::Max(high, hn::BitCast(di, v));
    low = hn::Max(low, hn::BitCast(du, v));
  }
  const int32_t hi_bits = hn::ReduceMax(di, high);
  const uint32_t lo_bits = hn::ReduceMax(du, low);
  if (hi_bits >= 0x7f800000 || lo_bits >= 0xff800000u) {
    return {hwy::BitCastScalar<float>(uint32_t{0x7fc00000u}), 0.0f, 0};
  }
  const float hi = hwy::BitCastScalar<float>(hi_bits);
  const float lo = lo_bits > 0x80000000u ? hwy::BitCastScalar<float>(lo_bits) : 0.0f;
  const float s = hi / 255.0f - lo / 255.0f;
  if (s < 1.17549435e-38f) return {0.0f, 0.0f, 0};
  // 0 <= -lo / s <= 255; adding 2^23 rounds to nearest even.
  const float zero = (-lo / s + 8388608.0f) - 8388608.0f;
  return {s, 1.0f / s, static_cast<int32_t>(zero)};
}

// 2 * kLanes values of u, as int16 in their own order.
template <class T>
KPT_SIMD_INLINE hn::Vec<Int16Tag> QuantizePair(const T* x, int64_t left, const RowQuant& q) {
  const FloatTag df;
  const Int16Tag dw;
  const auto scale = hn::Set(df, q.inverse);
  const auto one = [&](int64_t at) {
    const int64_t n = left - at;
    const auto v = n >= kLanes ? Load(x + at) : n > 0 ? LoadN(x + at, n) : hn::Zero(df);
    // A non-finite row has inverse 0: what comes out does not matter, s is NaN.
    return hn::NearestInt(hn::Mul(v, scale));
  };
  const auto i = hn::OrderedDemote2To(dw, one(0), one(kLanes));
  const auto shifted = hn::Add(i, hn::Set(dw, static_cast<int16_t>(q.z)));
  return hn::Min(hn::Max(shifted, hn::Zero(dw)), hn::Set(dw, int16_t{255}));
}

// What all threads share of one call's scratch: `bytes` for each.
char* Workspace(int num_threads, int64_t bytes) {
  return ScratchAs<char>(1, static_cast<size_t>(bytes * num_threads));
}

constexpr int64_t RoundUp(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

}  // namespace

void QuantizeRows(const QuantGemm& g, int64_t m0, int64_t rows, uint8_t* u, int64_t ld, float* s,
                  int32_t* z) {
  const Uint32Tag du;
  const int64_t padded = g.depth() * g.per_dword();
  for (int64_t r = 0; r < rows; ++r, u += ld) {
    WithRow(g, m0 + r, [&](const auto* x) {
      const RowQuant q = RangeOf(x, g.k);
      s[r] = q.s;
      z[r] = q.z;
      for (int64_t i = 0; i < padded; i += 4 * kLanes) {
        const auto a = hn::BitCast(du, QuantizePair(x + i, g.k - i, q));
        const auto b = hn::BitCast(du, QuantizePair(x + i + 2 * kLanes, g.k - i - 2 * kLanes, q));
        const auto even = hn::ConcatEven(du, b, a);  // (k, k+1) of each group of four
        const auto odd = hn::ConcatOdd(du, b, a);    // (k+2, k+3)
        hn::StoreU(
            hn::BitCast(hn::Repartition<uint8_t, Uint32Tag>(), hn::Or(even, hn::ShiftLeft<8>(odd))),
            hn::Repartition<uint8_t, Uint32Tag>(), u + i);
      }
    });
  }
}

void Dequantize(const int32_t* dots, const float* s, const int32_t* z, int64_t rows,
                const int32_t* column_sums, float* sums) {
  const Int32Tag di;
  const FloatTag df;
  for (int64_t r = 0; r < rows; ++r) {
    const auto zero = hn::Set(di, z[r]);
    const auto scale = hn::Set(df, s[r]);
    for (int64_t c = 0; c < kPanelCols; c += kLanes) {
      const auto v = hn::LoadU(di, dots + r * kPanelCols + c);
      const auto exact = hn::Sub(v, hn::Mul(zero, hn::LoadU(di, column_sums + c)));
      hn::StoreU(hn::Mul(hn::ConvertTo(df, exact), scale), df, sums + r * kPanelCols + c);
    }
  }
}

namespace {

// `rows` dword rows from row `begin` of panel p to floats.
void DecodeRows(const QuantGemm& g, int64_t p, int64_t begin, int64_t rows, float* out) {
  const int32_t* panel = reinterpret_cast<const int32_t*>(g.panel(p)) + begin * kPanelCols;
  switch (g.format) {
    case PackFormat::kBf16:
      return DecodeBf16Slice(panel, rows, out);
    case PackFormat::kInt8:
      return DecodeSlice<DecodeInt8>(panel, rows, out);
    case PackFormat::kFp8E4M3:
      return DecodeSlice<DecodeFp8As<E4M3Format>>(panel, rows, out);
    case PackFormat::kFp8E5M2:
      return DecodeSlice<DecodeFp8As<E5M2Format>>(panel, rows, out);
    default:
      return DecodeInt4Slice(panel, rows, Int4Group(g, p, g.group_of(8 * begin)), out);
  }
}

// dots[rows][64] = u * panel p; rows of u are `ldu` int16 pairs.
void Int8Dots(const QuantGemm& g, int64_t p, const int32_t* u, int64_t ldu, int64_t rows,
              int32_t* decoded, int32_t* dots) {
  constexpr int64_t kSlice = kSliceBytes / (2 * kPanelRowBytes);  // dword rows
  const int64_t depth = g.depth();
  const int32_t* panel = reinterpret_cast<const int32_t*>(g.panel(p));
  if (depth == 0) {
    for (int64_t i = 0; i < rows * kPanelCols; ++i) dots[i] = 0;
  }
  for (int64_t k0 = 0; k0 < depth; k0 += kSlice) {
    const int64_t n = depth - k0 < kSlice ? depth - k0 : kSlice;
    DecodePairs(panel + k0 * kPanelCols, n, decoded);
    Slice<PairDot>(u + 2 * k0, ldu, decoded, 2 * n, rows, k0 > 0, dots);
  }
}

// int4: the exact sums of each slice of inputs, of one group, go to `dots`; theirs, times the
// scales, to `sums`.
void Int4Dots(const QuantGemm& g, int64_t p, const int32_t* u, int64_t ldu, const float* s,
              const int32_t* z, int64_t rows, int32_t* decoded, int32_t* dots, float* sums) {
  const Int32Tag di;
  const FloatTag df;
  constexpr int64_t kInputs = kSliceBytes / (kPanelRowBytes / 2);
  const int64_t inputs = g.group_size > 0 ? g.group_size : kInputs;
  for (int64_t i = 0; i < rows * kPanelCols; ++i) sums[i] = 0;
  alignas(64) int32_t column_sums[kPanelCols];
  for (int64_t k0 = 0; k0 < g.k; k0 += inputs) {
    const Int4Group group(g, p, g.group_of(k0));
    DecodeInt4Pairs(reinterpret_cast<const int32_t*>(g.panel(p)) + k0 / 8 * kPanelCols, inputs / 8,
                    group, decoded, column_sums);
    Slice<PairDot>(u + k0 / 2, ldu, decoded, inputs / 2, rows, false, dots);
    for (int64_t r = 0; r < rows; ++r) {
      const auto zero = hn::Set(di, z[r]);
      for (int64_t c = 0; c < kPanelCols; c += kLanes) {
        const auto exact = hn::Sub(hn::LoadU(di, dots + r * kPanelCols + c),
                                   hn::Mul(zero, hn::Load(di, column_sums + c)));
        float* at = sums + r * kPanelCols + c;
        hn::StoreU(
            hn::MulAdd(hn::ConvertTo(df, exact), hn::Load(df, group.scale + c), hn::LoadU(df, at)),
            df, at);
      }
    }
  }
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < kPanelCols; ++c) sums[r * kPanelCols + c] *= s[r];
  }
}

}  // namespace

bool WeightOnlyGemm(int num_threads, const QuantGemm& g) {
  const int64_t per_dword = g.per_dword();
  const int64_t depth = g.depth();
  const int64_t padded = depth * per_dword;
  int64_t slice = g.m <= kFewRows ? kFewRowsSlice / per_dword
                                  : kSliceBytes / (kPanelRowBytes * per_dword);  // dword rows
  // One scale a slice: groups are multiples of 32 inputs.
  if (g.format == PackFormat::kInt4 && slice > 32 / per_dword) slice = 32 / per_dword;
  const int64_t inputs_depth = (g.k + per_dword - 1) / per_dword;  // behind it only padding
  const int64_t block = g.m < kBlockRows ? g.m : kBlockRows;
  const int64_t x_bytes = block * padded * 4;
  const int64_t bytes = RoundUp(x_bytes, 64) + kSliceBytes + block * kPanelRowBytes;
  char* all = Workspace(num_threads, bytes);
  if (all == nullptr) return false;
  Parallel(num_threads, [&](int thread, int threads) {
    const QuantShare share = ShareOf(thread, threads, g.m, kTileRows, g.panel_count(), 1);
    char* own = all + bytes * thread;
    float* x = reinterpret_cast<float*>(own);
    float* decoded = reinterpret_cast<float*>(own + RoundUp(x_bytes, 64));
    float* sums = decoded + kSliceBytes / 4;
    for (int64_t m0 = share.row_begin; m0 < share.row_end; m0 += block) {
      const int64_t rows = share.row_end - m0 < block ? share.row_end - m0 : block;
      if (share.panel_begin == share.panel_end) break;
      for (int64_t r = 0; r < rows; ++r) WidenRow(g, m0 + r, padded, x + r * padded);
      for (int64_t p = share.panel_begin; p < share.panel_end; ++p) {
        if (depth == 0) {
          for (int64_t i = 0; i < rows * kPanelCols; ++i) sums[i] = 0;
        }
        for (int64_t k0 = 0; k0 < inputs_depth; k0 += slice) {
          const int64_t n = depth - k0 < slice ? depth - k0 : slice;
          DecodeRows(g, p, k0, n, decoded);
          Slice<FloatDot>(x + k0 * per_dword, padded, decoded, n * per_dword, rows, k0 > 0, sums);
        }
        EmitRows(g.epilogue, sums, nullptr, kPanelCols, m0, rows, p * kPanelCols, g.panel_cols(p));
      }
    }
  });
  return true;
}

bool Int8Gemm(int num_threads, const QuantGemm& g) {
  const bool int4 = g.format == PackFormat::kInt4;
  const int64_t pairs = g.depth() * g.per_dword() / 2;
  const int64_t block = g.m < kBlockRows ? g.m : kBlockRows;
  const int64_t x_bytes = RoundUp(block * pairs * 4, 64);
  const int64_t int4_bytes = int4 ? block * kPanelRowBytes : 0;
  const int64_t bytes = x_bytes + kSliceBytes + block * (kPanelRowBytes + 8) + int4_bytes;
  char* all = Workspace(num_threads, RoundUp(bytes, 64));
  if (all == nullptr) return false;
  Parallel(num_threads, [&](int thread, int threads) {
    const QuantShare share = ShareOf(thread, threads, g.m, kTileRows, g.panel_count(), 1);
    char* own = all + RoundUp(bytes, 64) * thread;
    int32_t* x = reinterpret_cast<int32_t*>(own);
    int32_t* decoded = reinterpret_cast<int32_t*>(own + x_bytes);
    int32_t* dots = decoded + kSliceBytes / 4;
    float* sums =
        int4 ? reinterpret_cast<float*>(dots + block * kPanelCols) : reinterpret_cast<float*>(dots);
    float* s = reinterpret_cast<float*>(dots + block * kPanelCols) + int4_bytes / 4;
    int32_t* z = reinterpret_cast<int32_t*>(s + block);
    for (int64_t m0 = share.row_begin; m0 < share.row_end; m0 += block) {
      const int64_t rows = share.row_end - m0 < block ? share.row_end - m0 : block;
      if (share.panel_begin == share.panel_end) break;
      for (int64_t r = 0; r < rows; ++r) {
        WithRow(g, m0 + r, [&](const auto* row) {
          const RowQuant q = RangeOf(row, g.k);
          s[r] = q.s;
          z[r] = q.z;
          for (int64_t i = 0; i < pairs; i += kLanes) {
            hn::StoreU(hn::BitCast(Int32Tag(), QuantizePair(row + 2 * i, g.k - 2 * i, q)),
                       Int32Tag(), x + r * pairs + i);
          }
        });
      }
      for (int64_t p = share.panel_begin; p < share.panel_end; ++p) {
        if (int4) {
          Int4Dots(g, p, x, pairs, s, z, rows, decoded, dots, sums);
        } else {
          Int8Dots(g, p, x, pairs, rows, decoded, dots);
          Dequantize(dots, s, z, rows, g.column_sums(p), sums);
        }
        EmitRows(g.epilogue, sums, nullptr, kPanelCols, m0, rows, p * kPanelCols, g.panel_cols(p));
      }
    }
  });
  return true;
}

}  // namespace kpt::cpu::KPT_SIMD_NS
HWY_AFTER_NAMESPACE();

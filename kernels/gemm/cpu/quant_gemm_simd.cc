// Portable kernels for decoded weights: a slice of the panel is decoded to fp32 (or to pairs of
// int16) in the first-level cache and used for a block of rows at once.
#include "kernels/base/parallel_for.h"
#include "kernels/base/scratch.h"
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

// The four bytes of each dword, sign-extended, as floats: byte b of 0..3.
template <int kByte>
KPT_SIMD_INLINE hn::Vec<Int32Tag> SignedByte(hn::Vec<Int32Tag> v) {
  if constexpr (kByte == 3) {
    return hn::ShiftRight<24>(v);
  } else {
    return hn::ShiftRight<24>(hn::ShiftLeft<24 - 8 * kByte>(v));
  }
}

struct DecodeInt8 {
  static constexpr int kRows = 4;  // rows of k in a dword row
  template <int kByte>
  static HWY_INLINE FloatVec Get(hn::Vec<Int32Tag> v) {
    return hn::ConvertTo(FloatTag(), SignedByte<kByte>(v));
  }
};

struct DecodeFp8 {
  static constexpr int kRows = 4;
  template <int kByte>
  static HWY_INLINE FloatVec Get(hn::Vec<Int32Tag> v) {
    const FloatTag df;
    const Int32Tag di;
    const auto byte = SignedByte<kByte>(v);
    const auto magnitude = hn::And(byte, hn::Set(di, 0x7f));
    const auto sign = hn::And(byte, hn::Set(di, static_cast<int32_t>(0x80000000u)));
    // Normal: exponent bias 7 becomes 127. Subnormal: magnitude * 2^-9.
    const auto normal = hn::Add(hn::ShiftLeft<20>(magnitude), hn::Set(di, 120 << 23));
    const auto tiny =
        hn::BitCast(di, hn::Mul(hn::ConvertTo(df, magnitude), hn::Set(df, 1.0f / 512)));
    auto bits = hn::IfThenElse(hn::Lt(magnitude, hn::Set(di, 8)), tiny, normal);
    bits = hn::IfThenElse(hn::Eq(magnitude, hn::Set(di, 0x7f)), hn::Set(di, 0x7fc00000), bits);
    return hn::BitCast(df, hn::Or(bits, sign));
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
  const int64_t padded = g.depth() * 4;
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

bool WeightOnlyGemm(int num_threads, const QuantGemm& g) {
  const bool bf16 = g.format == PackFormat::kBf16;
  const int64_t per_dword = bf16 ? 2 : 4;
  const int64_t depth = g.depth();
  const int64_t padded = depth * per_dword;
  const int64_t slice = g.m <= kFewRows ? kFewRowsSlice / per_dword
                                        : kSliceBytes / (kPanelRowBytes * per_dword);  // dword rows
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
        const int32_t* panel = reinterpret_cast<const int32_t*>(g.panel(p));
        if (depth == 0) {
          for (int64_t i = 0; i < rows * kPanelCols; ++i) sums[i] = 0;
        }
        for (int64_t k0 = 0; k0 < depth; k0 += slice) {
          const int64_t n = depth - k0 < slice ? depth - k0 : slice;
          if (bf16) {
            DecodeBf16Slice(panel + k0 * kPanelCols, n, decoded);
          } else if (g.format == PackFormat::kInt8) {
            DecodeSlice<DecodeInt8>(panel + k0 * kPanelCols, n, decoded);
          } else {
            DecodeSlice<DecodeFp8>(panel + k0 * kPanelCols, n, decoded);
          }
          Slice<FloatDot>(x + k0 * per_dword, padded, decoded, n * per_dword, rows, k0 > 0, sums);
        }
        EmitRows(g.epilogue, sums, nullptr, kPanelCols, m0, rows, p * kPanelCols, g.panel_cols(p));
      }
    }
  });
  return true;
}

bool Int8Gemm(int num_threads, const QuantGemm& g) {
  const int64_t depth = g.depth();
  const int64_t pairs = depth * 2;
  constexpr int64_t kSlice = kSliceBytes / (2 * kPanelRowBytes);  // dword rows
  const int64_t block = g.m < kBlockRows ? g.m : kBlockRows;
  const int64_t x_bytes = RoundUp(block * pairs * 4, 64);
  const int64_t bytes = x_bytes + kSliceBytes + block * (kPanelRowBytes + 8);
  char* all = Workspace(num_threads, RoundUp(bytes, 64));
  if (all == nullptr) return false;
  Parallel(num_threads, [&](int thread, int threads) {
    const QuantShare share = ShareOf(thread, threads, g.m, kTileRows, g.panel_count(), 1);
    char* own = all + RoundUp(bytes, 64) * thread;
    int32_t* x = reinterpret_cast<int32_t*>(own);
    int32_t* decoded = reinterpret_cast<int32_t*>(own + x_bytes);
    int32_t* dots = decoded + kSliceBytes / 4;
    float* s = reinterpret_cast<float*>(dots + block * kPanelCols);
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
        const int32_t* panel = reinterpret_cast<const int32_t*>(g.panel(p));
        if (depth == 0) {
          for (int64_t i = 0; i < rows * kPanelCols; ++i) dots[i] = 0;
        }
        for (int64_t k0 = 0; k0 < depth; k0 += kSlice) {
          const int64_t n = depth - k0 < kSlice ? depth - k0 : kSlice;
          DecodePairs(panel + k0 * kPanelCols, n, decoded);
          Slice<PairDot>(x + 2 * k0, pairs, decoded, 2 * n, rows, k0 > 0, dots);
        }
        float* sums = reinterpret_cast<float*>(dots);
        Dequantize(dots, s, z, rows, g.column_sums(p), sums);
        EmitRows(g.epilogue, sums, nullptr, kPanelCols, m0, rows, p * kPanelCols, g.panel_cols(p));
      }
    }
  });
  return true;
}

}  // namespace kpt::cpu::KPT_SIMD_NS
HWY_AFTER_NAMESPACE();

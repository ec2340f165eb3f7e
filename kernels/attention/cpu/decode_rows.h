// attention_decode in float arithmetic on the rows of the cache as they lie: every byte of it is
// read once from memory, 64 keys at a time, for all query rows of a KV head.
//
// Included by files compiled once per instruction set: everything lies in KPT_SIMD_NS.
#ifndef KPT_KERNELS_ATTENTION_CPU_DECODE_ROWS_H_
#define KPT_KERNELS_ATTENTION_CPU_DECODE_ROWS_H_

#include "kernels/attention/cpu/decode_problem.h"
#include "kernels/attention/cpu/flash_block.h"
#include "kernels/attention/cpu/flash_math.h"
#include "kernels/attention/cpu/rotate_rows.h"

HWY_BEFORE_NAMESPACE();
namespace kpt::cpu::KPT_SIMD_NS {

struct E4M3Code {
  uint8_t bits;
};

using ByteTag8 = hn::Rebind<uint8_t, FloatTag>;
using SByteTag8 = hn::Rebind<int8_t, FloatTag>;

KPT_SIMD_INLINE FloatVec WidenBytes(hn::Vec<SByteTag8> bytes) {
  return hn::ConvertTo(FloatTag(), hn::PromoteTo(hn::RebindToSigned<FloatTag>(), bytes));
}
KPT_SIMD_INLINE FloatVec Load(const int8_t* p) { return WidenBytes(hn::LoadU(SByteTag8(), p)); }
KPT_SIMD_INLINE FloatVec LoadN(const int8_t* p, int64_t n) {
  return WidenBytes(hn::LoadN(SByteTag8(), p, static_cast<size_t>(n)));
}

// float8_e4m3fn by way of half, whose exponent's bias is 8 more.
KPT_SIMD_INLINE FloatVec WidenCodes(hn::Vec<ByteTag8> codes) {
  const hn::Rebind<uint16_t, FloatTag> dw;
  const hn::RebindToSigned<decltype(dw)> di;
  const auto wide = hn::PromoteTo(dw, codes);
  const auto moved = hn::BitCast(dw, hn::ShiftRight<1>(hn::BitCast(di, hn::ShiftLeft<8>(wide))));
  const auto most = hn::Set(dw, uint16_t{0x7f});
  const auto nan =
      hn::IfThenElseZero(hn::Eq(hn::And(wide, most), most), hn::Set(dw, uint16_t{0x7e00}));
  const auto half = hn::Or(hn::And(moved, hn::Set(dw, uint16_t{0xbf80})), nan);
  return hn::Mul(Widen(hn::BitCast(HalfTag(), half)), Set(256.0f));
}
KPT_SIMD_INLINE FloatVec Load(const E4M3Code* p) {
  return WidenCodes(hn::LoadU(ByteTag8(), &p->bits));
}
KPT_SIMD_INLINE FloatVec LoadN(const E4M3Code* p, int64_t n) {
  return WidenCodes(hn::LoadN(ByteTag8(), &p->bits, static_cast<size_t>(n)));
}

constexpr int kStep = static_cast<int>(kLanes);
// Sums that stay in registers.
constexpr int kSums = kStep == 16 ? 16 : 8;

// A thread's working memory.
struct DecodeState {
  alignas(64) float q[kDecodeRows * kDecodeMaxDim];
  alignas(64) float s[kDecodeRows * kDecodeKeys];  // scores, then weights
  alignas(64) float rescale[kDecodeRows];
  alignas(64) float dots[kSums * 16];  // per sum a vector, 16 floats apart
  alignas(64) float k_scale[kDecodeKeys];
  alignas(64) float v_scale[kDecodeKeys];
  // Of the current block and the one after it, which is prefetched.
  const void* k[2][kDecodeKeys];
  const void* v[2][kDecodeKeys];
};

[[maybe_unused]] static int64_t DecodePaddedDim(const DecodeProblem& p) {
  return RoundUp(p.dim_v, 32);
}

// f(j, place) for keys begin + j, j in [0, n): a page's rows follow each other.
template <class F>
KPT_SIMD_INLINE void EachPlace(const DecodeProblem& p, int64_t batch, int64_t begin, int64_t n,
                               const F& f) {
  for (int64_t j = 0; j < n;) {
    KeyPlace at = PlaceOf(p, batch, begin + j);
    const int64_t page_end = p.block_table == nullptr ? n : j + p.page_size - at.row;
    for (; j < Least(n, page_end); ++j, ++at.row) f(j, at);
  }
}

// The rows of keys [begin, begin + n) in both caches.
[[maybe_unused]] static void FindRows(const DecodeProblem& p, const DecodeUnit& unit, int64_t begin,
                                      int64_t n, const void** k, const void** v) {
  const int64_t size = ItemSize(p.cache_dtype);
  EachPlace(p, unit.batch, begin, n, [&](int64_t j, const KeyPlace& at) {
    const auto row = [&](const DecodeCache& c) {
      return static_cast<const char*>(c.data) +
             (at.first * c.stride.batch + unit.head_kv * c.stride.head + at.row * c.stride.row) *
                 size;
    };
    k[j] = row(p.k);
    v[j] = row(p.v);
  });
}

[[maybe_unused]] static void FindScales(const DecodeProblem& p, const DecodeCache& cache,
                                        const DecodeUnit& unit, int64_t begin, int64_t n,
                                        float* dst) {
  EachPlace(p, unit.batch, begin, n, [&](int64_t j, const KeyPlace& at) {
    dst[j] = cache.scale[at.first * cache.scale_stride.batch +
                         unit.head_kv * cache.scale_stride.head + at.row * cache.scale_stride.row];
  });
}

// Into the second-level cache, one block ahead: without it half of the bandwidth is lost.
KPT_SIMD_INLINE void PrefetchRow(const void* row, int64_t bytes) {
  const char* p = static_cast<const char*>(row);
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(p + i, 0, 2);
}

// The block of keys at work.
struct DecodeBlock {
  int which;  // of DecodeState's rows
  int keys;
  int ahead;  // keys of the next block
};

// s[r][j] = q[r] . k[j] for kRows rows and kSums / kRows keys: of each sum a vector.
template <class T, int kRows>
KPT_SIMD_INLINE void Dots(const float* q, const void* const* keys, int64_t dim, float* dots) {
  constexpr int kKeys = kSums / kRows;
  const T* k[kKeys];
  FloatVec sum[kSums];
  HWY_UNROLL(16)
  for (int i = 0; i < kKeys; ++i) k[i] = static_cast<const T*>(keys[i]);
  HWY_UNROLL(16)
  for (int i = 0; i < kSums; ++i) sum[i] = Set(0.0f);
  int64_t d = 0;
  for (; d + kStep <= dim; d += kStep) {
    FloatVec row[kRows];
    HWY_UNROLL(8)
    for (int r = 0; r < kRows; ++r) row[r] = hn::Load(FloatTag(), q + r * kDecodeMaxDim + d);
    HWY_UNROLL(16)
    for (int i = 0; i < kKeys; ++i) {
      const FloatVec x = Load(k[i] + d);
      HWY_UNROLL(8)
      for (int r = 0; r < kRows; ++r) {
        sum[r * kKeys + i] = hn::MulAdd(row[r], x, sum[r * kKeys + i]);
      }
    }
  }
  if (d < dim) {
    HWY_UNROLL(16)
    for (int i = 0; i < kKeys; ++i) {
      const FloatVec x = LoadN(k[i] + d, dim - d);
      HWY_UNROLL(8)
      for (int r = 0; r < kRows; ++r) {
        const FloatVec row = hn::Load(FloatTag(), q + r * kDecodeMaxDim + d);
        sum[r * kKeys + i] = hn::MulAdd(row, x, sum[r * kKeys + i]);
      }
    }
  }
  HWY_UNROLL(16)
  for (int i = 0; i < kSums; ++i) hn::Store(sum[i], FloatTag(), dots + i * 16);
}

template <class Math, int kRows>
[[maybe_unused]] static void ScoreRows(const DecodeProblem& p, typename Math::State& state,
                                       const DecodeBlock& block, int row) {
  constexpr int kKeys = kSums / kRows;
  const int n = block.keys;
  for (int j = 0; j < n; j += kKeys) {
    for (int i = j; row == 0 && i < j + kKeys && i < block.ahead; ++i) {
      PrefetchRow(state.k[1 - block.which][i], p.dim_qk * Math::kItem);
    }
    // Behind the last key its own row is read again; those scores are hidden.
    const void* keys[kKeys];
    for (int i = 0; i < kKeys; ++i) keys[i] = state.k[block.which][j + i < n ? j + i : n - 1];
    Math::template Dots<kRows>(state, row, keys, p.dim_qk);
    alignas(64) float sums[16];
    ReduceRows<SumOp>(state.dots, sums);
    for (int r = 0; r < kRows; ++r) {
      std::memcpy(state.s + (row + r) * kDecodeKeys + j, sums + r * kKeys, kKeys * sizeof(float));
    }
  }
}

// o[row + r][d, d + kVectors vectors) = rescale * o + sum_j w[r][j] v[j]; the last of `columns`
// may be a part of a vector.
template <class T, int kRows, int kVectors>
KPT_SIMD_INLINE void AddValues(const DecodeState& state, const DecodeBlock& block, int row,
                               int64_t d, int64_t columns, int64_t stride, float* out) {
  FloatVec sum[kRows][kVectors];
  HWY_UNROLL(8)
  for (int r = 0; r < kRows; ++r) {
    const FloatVec rescale = Set(state.rescale[row + r]);
    HWY_UNROLL(8)
    for (int i = 0; i < kVectors; ++i) {
      sum[r][i] = hn::Mul(rescale, hn::Load(FloatTag(), out + (row + r) * stride + d + i * kStep));
    }
  }
  const bool whole = columns >= kVectors * kStep;
  for (int j = 0; j < block.keys; ++j) {
    const T* v = static_cast<const T*>(state.v[block.which][j]) + d;
    if (row == 0 && j < block.ahead) {
      PrefetchRow(static_cast<const T*>(state.v[1 - block.which][j]) + d,
                  kVectors * kStep * static_cast<int64_t>(sizeof(T)));
    }
    FloatVec x[kVectors];
    if (whole) {
      HWY_UNROLL(8)
      for (int i = 0; i < kVectors; ++i) x[i] = Load(v + i * kStep);
    } else {
      HWY_UNROLL(8)
      for (int i = 0; i < kVectors; ++i) x[i] = LoadN(v, columns);
    }
    HWY_UNROLL(8)
    for (int r = 0; r < kRows; ++r) {
      const FloatVec w = Set(state.s[(row + r) * kDecodeKeys + j]);
      HWY_UNROLL(8)
      for (int i = 0; i < kVectors; ++i) sum[r][i] = hn::MulAdd(w, x[i], sum[r][i]);
    }
  }
  HWY_UNROLL(8)
  for (int r = 0; r < kRows; ++r) {
    HWY_UNROLL(8)
    for (int i = 0; i < kVectors; ++i) {
      hn::Store(sum[r][i], FloatTag(), out + (row + r) * stride + d + i * kStep);
    }
  }
}

template <class T, int kRows>
[[maybe_unused]] static void ValueRows(const DecodeProblem& p, const DecodeState& state,
                                       const DecodeBlock& block, int row, float* out) {
  constexpr int kVectors = kSums / kRows < 8 ? kSums / kRows : 8;
  const int64_t stride = DecodePaddedDim(p);
  int64_t d = 0;
  for (; d + kVectors * kStep <= p.dim_v; d += kVectors * kStep) {
    AddValues<T, kRows, kVectors>(state, block, row, d, p.dim_v - d, stride, out);
  }
  for (; d < p.dim_v; d += kStep) {
    AddValues<T, kRows, 1>(state, block, row, d, p.dim_v - d, stride, out);
  }
}

// The softmax of one row over the block's keys [begin, begin + n): weights in place of its scores,
// and what its earlier sums are to be multiplied with.
[[maybe_unused]] static void SoftmaxRow(const DecodeProblem& p, const DecodeUnit& unit,
                                        DecodeState& state, int64_t begin, int n, int row,
                                        const DecodePartial& result) {
  const int64_t at = unit.row + row;
  const int64_t position = unit.seq_len - p.seqlen_q + at % p.seqlen_q;
  const int64_t head = unit.head_kv * (p.heads_q / p.heads_kv) + at / p.seqlen_q;
  const int64_t oldest = p.window_left >= 0 ? position - p.window_left : 0;
  const int from = static_cast<int>(Most(oldest - begin, 0));
  const int to = static_cast<int>(Least(position + 1 - begin, n));

  float* s = state.s + row * kDecodeKeys;
  const hn::RebindToSigned<FloatTag> di;
  FloatVec most = Set(kNegInf);
  for (int i = 0; i < kDecodeKeys; i += kStep) {
    FloatVec x = hn::Mul(hn::Load(FloatTag(), s + i), Set(p.scale));
    if (p.k.scale != nullptr) x = hn::Mul(x, hn::Load(FloatTag(), state.k_scale + i));
    if (p.softcap > 0.0f) {
      x = hn::Mul(Set(p.softcap), Tanh<false>(hn::Mul(x, Set(1.0f / p.softcap))));
    }
    const auto key = hn::Iota(di, i);
    if (p.alibi != nullptr) {
      const float slope = p.alibi[head * p.alibi_stride];
      const FloatVec distance =
          hn::Sub(Set(static_cast<float>(position - begin)), hn::ConvertTo(FloatTag(), key));
      x = hn::NegMulAdd(Set(slope), distance, x);
    }
    const auto visible = hn::And(hn::Ge(key, hn::Set(di, from)), hn::Lt(key, hn::Set(di, to)));
    x = hn::IfThenElse(hn::RebindMask(FloatTag(), visible), x, Set(kNegInf));
    hn::Store(x, FloatTag(), s + i);
    most = hn::Max(most, x);
  }
  const float before = result.max[row];
  const float block_max = hn::ReduceMax(FloatTag(), most);
  const float after = before > block_max ? before : block_max;
  const float shift = after == kNegInf ? 0.0f : after;
  const float rescale = hn::GetLane(Exp2BelowMax<false>(Set((before - shift) * kLog2E)));
  FloatVec sum = Set(0.0f);
  for (int i = 0; i < kDecodeKeys; i += kStep) {
    const FloatVec x = hn::Load(FloatTag(), s + i);
    FloatVec w = Exp2BelowMax<false>(hn::Mul(hn::Sub(x, Set(shift)), Set(kLog2E)));
    sum = hn::Add(sum, w);
    if (p.v.scale != nullptr) w = hn::Mul(w, hn::Load(FloatTag(), state.v_scale + i));
    hn::Store(w, FloatTag(), s + i);
  }
  result.max[row] = after;
  result.sum[row] = result.sum[row] * rescale + hn::ReduceSum(FloatTag(), sum);
  state.rescale[row] = rescale;
}

// f<rows>(first row) over all rows, the most at once that fit the registers.
template <class F>
KPT_SIMD_INLINE void EachRows(int rows, const F& f) {
  int row = 0;
  for (; row + 8 <= rows; row += 8) f.template operator()<8>(row);
  if (row + 4 <= rows) f.template operator()<4>(row), row += 4;
  if (row + 2 <= rows) f.template operator()<2>(row), row += 2;
  if (row < rows) f.template operator()<1>(row);
}

template <class Math>
struct ScoreEach {
  const DecodeProblem& p;
  typename Math::State& state;
  const DecodeBlock& block;
  template <int kRows>
  void operator()(int row) const {
    ScoreRows<Math, kRows>(p, state, block, row);
  }
};

template <class Math>
struct ValueEach {
  const DecodeProblem& p;
  typename Math::State& state;
  const DecodeBlock& block;
  float* out;
  template <int kRows>
  void operator()(int row) const {
    Math::template Values<kRows>(p, state, block, row, out);
  }
};

// Both products in float, from a cache of T.
template <class T>
struct FloatMath {
  using State = DecodeState;
  static constexpr int64_t kItem = static_cast<int64_t>(sizeof(T));

  template <int kRows>
  static void Dots(State& state, int row, const void* const* keys, int64_t dim) {
    kpt::cpu::KPT_SIMD_NS::Dots<T, kRows>(state.q + row * kDecodeMaxDim, keys, dim, state.dots);
  }
  static void Weigh(State&, int) {}
  template <int kRows>
  static void Values(const DecodeProblem& p, State& state, const DecodeBlock& block, int row,
                     float* out) {
    ValueRows<T, kRows>(p, state, block, row, out);
  }
};

template <class Math>
[[maybe_unused]] static void DecodePieceOf(const DecodeProblem& p, const DecodeUnit& unit,
                                           KeyRange range, void* memory,
                                           const DecodePartial& result) {
  typename Math::State& state = *static_cast<typename Math::State*>(memory);
  for (int r = 0; r < unit.rows; ++r) {
    result.max[r] = kNegInf;
    result.sum[r] = 0.0f;
  }
  std::memset(result.out, 0, static_cast<size_t>(unit.rows * DecodePaddedDim(p)) * sizeof(float));
  const auto length = [&](int64_t begin, int64_t end) {
    return begin < end ? static_cast<int>(Least(kDecodeKeys, end - begin)) : 0;
  };
  DecodeBlock block{0, 0, length(range.begin, range.end)};
  FindRows(p, unit, range.begin, block.ahead, state.k[1], state.v[1]);
  for (int64_t begin = range.begin; begin < range.end; begin += kDecodeKeys) {
    block.which = 1 - block.which;
    block.keys = length(begin, range.end);
    // The next piece follows, so this looks past the end.
    const int64_t after = begin + kDecodeKeys;
    block.ahead = length(after, unit.keys.end);
    FindRows(p, unit, after, block.ahead, state.k[1 - block.which], state.v[1 - block.which]);
    if (p.k.scale != nullptr) FindScales(p, p.k, unit, begin, block.keys, state.k_scale);
    if (p.v.scale != nullptr) FindScales(p, p.v, unit, begin, block.keys, state.v_scale);

    EachRows(unit.rows, ScoreEach<Math>{p, state, block});
    for (int r = 0; r < unit.rows; ++r) {
      SoftmaxRow(p, unit, state, begin, block.keys, r, result);
      Math::Weigh(state, r);
    }
    EachRows(unit.rows, ValueEach<Math>{p, state, block, result.out});
  }
}

[[maybe_unused]] static void DecodeBegin(const DecodeProblem& p, const DecodeUnit& unit,
                                         void* memory) {
  DecodeState& state = *static_cast<DecodeState*>(memory);
  for (int r = 0; r < unit.rows; ++r) {
    const int64_t at = unit.row + r;
    const int64_t head = unit.head_kv * (p.heads_q / p.heads_kv) + at / p.seqlen_q;
    const void* row = RowOf(p.q, p.q_stride, unit.batch, head, at % p.seqlen_q, p.dtype);
    float* q = state.q + r * kDecodeMaxDim;
    CopyRow(row, p.dtype, p.dim_qk, RoundUp(p.dim_qk, 16), q);
    if (p.rotation.pairs == 0) continue;
    Angles angles;
    LoadAngles(p.rotation, unit.batch, at % p.seqlen_q, &angles);
    TurnRow(p.rotation, angles, q);
  }
  // What hidden lanes are multiplied with must be finite.
  for (int j = 0; j < kDecodeKeys; ++j) state.k_scale[j] = state.v_scale[j] = 1.0f;
}

// 2^(x log2(e)) of x <= 0, as the weights have it.
KPT_SIMD_INLINE float Weight(float x) { return hn::GetLane(Exp2BelowMax<false>(Set(x * kLog2E))); }

[[maybe_unused]] static void DecodeFold(const DecodeProblem& p, int rows,
                                        const DecodePartial& piece, const DecodePartial& total) {
  const int64_t dim = DecodePaddedDim(p);
  for (int r = 0; r < rows; ++r) {
    const float max = total.max[r] > piece.max[r] ? total.max[r] : piece.max[r];
    const float shift = max == kNegInf ? 0.0f : max;
    const float a = Weight(total.max[r] - shift);
    const float b = Weight(piece.max[r] - shift);
    total.max[r] = max;
    total.sum[r] = a * total.sum[r] + b * piece.sum[r];
    float* out = total.out + r * dim;
    const float* add = piece.out + r * dim;
    for (int64_t d = 0; d < dim; d += kStep) {
      const FloatVec scaled = hn::Mul(Set(a), hn::Load(FloatTag(), out + d));
      hn::Store(hn::MulAdd(Set(b), hn::Load(FloatTag(), add + d), scaled), FloatTag(), out + d);
    }
  }
}

[[maybe_unused]] static void DecodeFinish(const DecodeProblem& p, const DecodeUnit& unit,
                                          const DecodePartial& total) {
  for (int r = 0; r < unit.rows; ++r) {
    const int64_t at = unit.row + r;
    const int64_t head = unit.head_kv * (p.heads_q / p.heads_kv) + at / p.seqlen_q;
    float sum = total.sum[r];
    float factor = 1.0f;
    if (p.sinks != nullptr) {
      const float sink = p.sinks[head * p.sinks_stride];
      const float max = total.max[r] > sink ? total.max[r] : sink;
      const float shift = max == kNegInf ? 0.0f : max;
      factor = Weight(total.max[r] - shift);
      sum = sum * factor + Weight(sink - shift);
    }
    void* out =
        const_cast<char*>(RowOf(p.out, p.out_stride, unit.batch, head, at % p.seqlen_q, p.dtype));
    WriteRow(total.out + r * DecodePaddedDim(p), sum == 0.0f ? 0.0f : factor / sum, p.dim_v,
             p.dtype, out);
  }
}

}  // namespace kpt::cpu::KPT_SIMD_NS
HWY_AFTER_NAMESPACE();

#endif  // KPT_KERNELS_ATTENTION_CPU_DECODE_ROWS_H_

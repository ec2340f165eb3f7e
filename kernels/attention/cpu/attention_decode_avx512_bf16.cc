// attention_decode for bfloat16 queries with vdpbf16ps: keys, values and weights as bfloat16, sums
// in float. A cache of one byte a number is widened to bfloat16, which holds its numbers exactly.
#define KPT_SIMD_NS avx512_bf16

#include <immintrin.h>

#include "kernels/attention/cpu/decode_kernels.h"
#include "kernels/attention/cpu/decode_rows.h"

HWY_BEFORE_NAMESPACE();
namespace kpt::cpu::KPT_SIMD_NS {
namespace {

constexpr int kPair = 32;  // elements of a vector of bfloat16

struct PairState : DecodeState {
  alignas(64) uint16_t queries[kDecodeRows * kDecodeMaxDim];
  alignas(64) uint16_t weights[kDecodeRows * kDecodeKeys];
};

KPT_SIMD_INLINE __m512i Pack(FloatVec low, FloatVec high) {
  return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high.raw, low.raw));
}
KPT_SIMD_INLINE void AddProduct(__m512i a, __m512i b, __m512* sum) {
  *sum = _mm512_dpbf16_ps(*sum, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
}

// Elements [0, n) of a row, n up to 32, in order; the others are zero.
KPT_SIMD_INLINE __m512i LoadPairs(const BFloat16* p, int64_t n) {
  if (n >= kPair) return _mm512_loadu_si512(p);
  return _mm512_maskz_loadu_epi16((uint32_t{1} << n) - 1, p);
}
template <class T>
KPT_SIMD_INLINE __m512i LoadPairs(const T* p, int64_t n) {
  if (n >= kPair) return Pack(Load(p), Load(p + kLanes));
  if (n <= kLanes) return Pack(LoadN(p, n), Set(0.0f));
  return Pack(Load(p), LoadN(p + kLanes, n - kLanes));
}

// The bfloat16 numbers of float8_e4m3fn codes without sign, by their two bytes.
struct CodeTable {
  alignas(64) uint8_t low[128] = {};
  alignas(64) uint8_t high[128] = {};
  constexpr CodeTable() {
    for (unsigned code = 0; code < 128; ++code) {
      const unsigned exponent = code >> 3, mantissa = code & 7;
      unsigned bits = 0;
      if (code == 127) {
        bits = 0x7fc0;  // NaN
      } else if (exponent > 0) {
        bits = ((exponent + 120) << 7) | (mantissa << 4);
      } else if (mantissa > 0) {  // mantissa * 2^-9, normal as a bfloat16
        const unsigned top = mantissa >= 4 ? 2 : mantissa >= 2 ? 1 : 0;
        bits = ((118 + top) << 7) | ((mantissa << (7 - top)) & 0x7f);
      }
      low[code] = static_cast<uint8_t>(bits);
      high[code] = static_cast<uint8_t>(bits >> 8);
    }
  }
};
constexpr CodeTable kCodes;

struct TwiceEach {
  alignas(64) uint8_t at[64] = {};
  constexpr TwiceEach() {
    for (int i = 0; i < 64; ++i) at[i] = static_cast<uint8_t>(i / 2);
  }
};
constexpr TwiceEach kTwice;

// vpermi2b looks up 128 bytes by the low seven bits of each index. By way of half, as elsewhere,
// the conversion would take four times as many instructions.
KPT_SIMD_INLINE __m512i LoadPairs(const E4M3Code* p, int64_t n) {
  const __mmask32 there = n >= kPair ? ~uint32_t{0} : (uint32_t{1} << n) - 1;
  const __m512i codes = _mm512_permutexvar_epi8(
      _mm512_load_si512(kTwice.at), _mm512_castsi256_si512(_mm256_maskz_loadu_epi8(there, p)));
  const auto look_up = [codes](const uint8_t* table) {
    return _mm512_permutex2var_epi8(_mm512_load_si512(table), codes, _mm512_load_si512(table + 64));
  };
  const __m512i magnitude =
      _mm512_mask_blend_epi8(0xaaaaaaaaaaaaaaaa, look_up(kCodes.low), look_up(kCodes.high));
  // magnitude | (codes & sign)
  return _mm512_ternarylogic_epi32(magnitude, codes, _mm512_set1_epi16(int16_t{-0x8000}), 0xf8);
}

// Elements [0, n) of two rows, side by side: of columns 0 to 15, and 16 to 31.
struct Zipped {
  __m512i low, high;
};
KPT_SIMD_INLINE Zipped Zip(__m512i a, __m512i b) {
  alignas(64) static constexpr uint16_t kLow[32] = {0,  32, 1,  33, 2,  34, 3,  35, 4,  36, 5,
                                                    37, 6,  38, 7,  39, 8,  40, 9,  41, 10, 42,
                                                    11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
  const __m512i low = _mm512_load_si512(kLow);
  const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
  return {_mm512_permutex2var_epi16(a, low, b), _mm512_permutex2var_epi16(a, high, b)};
}

// d += two rows' columns, kVectors times 32 of them; `columns` of these are there.
template <class T, int kRows, int kVectors>
KPT_SIMD_INLINE void AddValuePairs(const PairState& state, const DecodeBlock& block, int row,
                                   int64_t d, int64_t columns, int64_t stride, float* out) {
  __m512 sum[kRows][2 * kVectors];
  HWY_UNROLL(8)
  for (int r = 0; r < kRows; ++r) {
    const __m512 rescale = _mm512_set1_ps(state.rescale[row + r]);
    HWY_UNROLL(8)
    for (int i = 0; i < 2 * kVectors; ++i) {
      sum[r][i] = _mm512_mul_ps(rescale, _mm512_load_ps(out + (row + r) * stride + d + i * kLanes));
    }
  }
  for (int j = 0; j < block.keys; j += 2) {
    // Behind the last key its own row is read again, with weight 0.
    const int next = j + 1 < block.keys ? j + 1 : j;
    const T* a = static_cast<const T*>(state.v[block.which][j]) + d;
    const T* b = static_cast<const T*>(state.v[block.which][next]) + d;
    for (int i = j; row == 0 && i < j + 2 && i < block.ahead; ++i) {
      PrefetchRow(static_cast<const T*>(state.v[1 - block.which][i]) + d,
                  kVectors * kPair * static_cast<int64_t>(sizeof(T)));
    }
    Zipped x[kVectors];
    HWY_UNROLL(4)
    for (int i = 0; i < kVectors; ++i) {
      const int64_t n = columns - i * kPair;
      x[i] = Zip(LoadPairs(a + i * kPair, n), LoadPairs(b + i * kPair, n));
    }
    HWY_UNROLL(8)
    for (int r = 0; r < kRows; ++r) {
      int32_t pair;
      std::memcpy(&pair, state.weights + (row + r) * kDecodeKeys + j, sizeof(pair));
      const __m512i w = _mm512_set1_epi32(pair);
      HWY_UNROLL(4)
      for (int i = 0; i < kVectors; ++i) {
        AddProduct(w, x[i].low, &sum[r][2 * i]);
        AddProduct(w, x[i].high, &sum[r][2 * i + 1]);
      }
    }
  }
  HWY_UNROLL(8)
  for (int r = 0; r < kRows; ++r) {
    HWY_UNROLL(8)
    for (int i = 0; i < 2 * kVectors; ++i) {
      _mm512_store_ps(out + (row + r) * stride + d + i * kLanes, sum[r][i]);
    }
  }
}

// Both products by pairs of bfloat16, from a cache of T.
template <class T>
struct PairMath {
  using State = PairState;
  static constexpr int64_t kItem = static_cast<int64_t>(sizeof(T));

  template <int kRows>
  static void Dots(State& state, int row, const void* const* keys, int64_t dim) {
    constexpr int kKeys = kSums / kRows;
    const uint16_t* q = state.queries + row * kDecodeMaxDim;
    const T* k[kKeys];
    __m512 sum[kSums];
    HWY_UNROLL(16)
    for (int i = 0; i < kKeys; ++i) k[i] = static_cast<const T*>(keys[i]);
    HWY_UNROLL(16)
    for (int i = 0; i < kSums; ++i) sum[i] = _mm512_setzero_ps();
    const auto add = [&](int64_t d, int64_t n) {
      HWY_UNROLL(16)
      for (int i = 0; i < kKeys; ++i) {
        const __m512i x = LoadPairs(k[i] + d, n);
        HWY_UNROLL(8)
        for (int r = 0; r < kRows; ++r) {
          AddProduct(_mm512_load_si512(q + r * kDecodeMaxDim + d), x, &sum[r * kKeys + i]);
        }
      }
    };
    int64_t d = 0;
    for (; d + kPair <= dim; d += kPair) add(d, kPair);
    if (d < dim) add(d, dim - d);
    HWY_UNROLL(16)
    for (int i = 0; i < kSums; ++i) _mm512_store_ps(state.dots + i * 16, sum[i]);
  }

  static void Weigh(State& state, int row) {
    const float* w = state.s + row * kDecodeKeys;
    uint16_t* out = state.weights + row * kDecodeKeys;
    for (int i = 0; i < kDecodeKeys; i += kPair) {
      _mm512_store_si512(out + i, Pack(Load(w + i), Load(w + i + kLanes)));
    }
  }

  template <int kRows>
  static void Values(const DecodeProblem& p, State& state, const DecodeBlock& block, int row,
                     float* out) {
    constexpr int kVectors = kRows >= 8 ? 1 : kRows == 4 ? 2 : 4;
    const int64_t stride = DecodePaddedDim(p);
    int64_t d = 0;
    for (; d + kVectors * kPair <= p.dim_v; d += kVectors * kPair) {
      AddValuePairs<T, kRows, kVectors>(state, block, row, d, kVectors * kPair, stride, out);
    }
    for (; d < p.dim_v; d += kPair) {
      AddValuePairs<T, kRows, 1>(state, block, row, d, p.dim_v - d, stride, out);
    }
  }
};

void BeginPairs(const DecodeProblem& p, const DecodeUnit& unit, void* memory) {
  DecodeBegin(p, unit, memory);
  PairState& state = *static_cast<PairState*>(memory);
  for (int r = 0; r < unit.rows; ++r) {
    const float* q = state.q + r * kDecodeMaxDim;
    for (int64_t d = 0; d < p.dim_qk; d += kPair) {
      // Beyond a last vector there may be anything.
      const FloatVec high = d + kLanes < p.dim_qk ? Load(q + d + kLanes) : Set(0.0f);
      _mm512_store_si512(state.queries + r * kDecodeMaxDim + d, Pack(Load(q + d), high));
    }
  }
}

void PiecePairs(const DecodeProblem& p, const DecodeUnit& unit, KeyRange range, void* state,
                const DecodePartial& result) {
  switch (p.cache_dtype) {
    case DType::kInt8:
      return DecodePieceOf<PairMath<int8_t>>(p, unit, range, state, result);
    case DType::kFloat8E4M3FN:
      return DecodePieceOf<PairMath<E4M3Code>>(p, unit, range, state, result);
    default:
      return DecodePieceOf<PairMath<BFloat16>>(p, unit, range, state, result);
  }
}

}  // namespace

DecodeKernel BFloat16DecodeKernel() {
  DecodeKernel kernel;
  kernel.state_bytes = [] { return sizeof(PairState); };
  kernel.padded_dim = DecodePaddedDim;
  kernel.begin = BeginPairs;
  kernel.piece = PiecePairs;
  kernel.fold = DecodeFold;
  kernel.finish = DecodeFinish;
  return kernel;
}

}  // namespace kpt::cpu::KPT_SIMD_NS
HWY_AFTER_NAMESPACE();

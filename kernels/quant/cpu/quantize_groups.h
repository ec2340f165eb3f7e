// Measuring groups of numbers and rounding them to 8 bits, for the instruction set that the
// including file is compiled for.
#ifndef KPT_KERNELS_QUANT_CPU_QUANTIZE_GROUPS_H_
#define KPT_KERNELS_QUANT_CPU_QUANTIZE_GROUPS_H_

#include <cstring>

#include "kernels/base/simd_fp8.h"
#include "kernels/base/simd_io.h"
#include "kernels/base/simd_philox.h"
#include "kernels/quant/cpu/quantize_rows.h"
#include "kernels/quant/cpu/scale_rule.h"

HWY_BEFORE_NAMESPACE();
namespace kpt::cpu::KPT_SIMD_NS {
namespace {

constexpr int64_t kBytes = 4 * kLanes;  // codes that fill a vector

// m elements from p: a whole vector when there are as many, zeros past the end.
template <class T>
KPT_SIMD_INLINE FloatVec LoadUpTo(const T* p, int64_t m) {
  if (m >= kLanes) return Load(p);
  return m > 0 ? LoadN(p, m) : hn::Zero(FloatTag());
}

// The larger one; `b` where `a` is NaN.
KPT_SIMD_INLINE FloatVec MaxNumber(FloatVec a, FloatVec b) {
#if HWY_ARCH_X86
  return hn::Max(a, b);
#else
  return hn::IfThenElse(hn::Gt(a, b), a, b);
#endif
}
KPT_SIMD_INLINE FloatVec MinNumber(FloatVec a, FloatVec b) {
#if HWY_ARCH_X86
  return hn::Min(a, b);
#else
  return hn::IfThenElse(hn::Lt(a, b), a, b);
#endif
}

// add(v) for vectors of x, zeros past the end.
template <class T, class F>
KPT_SIMD_INLINE void ForEachVector(const T* x, int64_t n, const F& add) {
  int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    FloatVec a, b;
    LoadBoth(x + i, &a, &b);
    add(a, 0);
    add(b, 1);
  }
  for (; i < n; i += kLanes) add(LoadUpTo(x + i, n - i), 0);
}

// fp8: the largest magnitude, NaN left out.
template <class T>
float AmaxOfNumbers(const T* x, int64_t n) {
  FloatVec most[2] = {hn::Zero(FloatTag()), hn::Zero(FloatTag())};
  ForEachVector(x, n, [&](FloatVec v, int which) HWY_ATTR {
    most[which] = MaxNumber(hn::Abs(v), most[which]);
  });
  return hn::ReduceMax(FloatTag(), hn::Max(most[0], most[1]));
}

// int8: the largest magnitude; NaN when there is one. As integers NaN is above infinity.
template <class T>
float AmaxOrNan(const T* x, int64_t n) {
  const IntTag di;
  hn::Vec<IntTag> most[2] = {hn::Zero(di), hn::Zero(di)};
  ForEachVector(x, n, [&](FloatVec v, int which) HWY_ATTR {
    most[which] = hn::Max(most[which], hn::BitCast(di, hn::Abs(v)));
  });
  const int32_t bits = hn::ReduceMax(di, hn::Max(most[0], most[1]));
  float amax;
  std::memcpy(&amax, &bits, 4);
  return amax;
}

template <class T>
Range LowAndHigh(const T* x, int64_t n) {
  FloatVec low[2] = {hn::Zero(FloatTag()), hn::Zero(FloatTag())};
  FloatVec high[2] = {low[0], low[0]};
  ForEachVector(x, n, [&](FloatVec v, int which) HWY_ATTR {
    low[which] = MinNumber(v, low[which]);
    high[which] = MaxNumber(v, high[which]);
  });
  Range range;
  range.lo = hn::ReduceMin(FloatTag(), hn::Min(low[0], low[1]));
  range.hi = hn::ReduceMax(FloatTag(), hn::Max(high[0], high[1]));
  const float amax = AmaxOrNan(x, n);
  if (amax != amax) range.hi = amax;
  return range;
}

template <class T>
Range RangeOf(QuantFormat format, const T* x, int64_t n) {
  Range range;
  switch (format) {
    case QuantFormat::kInt8Asymmetric:
      return LowAndHigh(x, n);
    case QuantFormat::kInt8:
      range.hi = AmaxOrNan(x, n);
      return range;
    default:
      range.hi = AmaxOfNumbers(x, n);
      return range;
  }
}

// Codes of scaled numbers. `inverse` is 1 / scale.
template <class F>
struct Fp8Encoder {
  FloatVec inverse;
  HWY_INLINE UIntVec operator()(FloatVec v, int64_t) const {
    return EncodeNearest<F>()(hn::Mul(v, inverse));
  }
};

template <class F>
struct StochasticEncoder {
  FloatVec inverse;
  const uint32_t* random;  // of the first element
  HWY_INLINE UIntVec operator()(FloatVec v, int64_t i) const {
    return EncodeStochastic<F>()(hn::Mul(v, inverse), hn::LoadU(UIntTag(), random + i));
  }
};

struct Int8Encoder {
  FloatVec inverse, lowest, highest;  // the last two before the zero point is added
  hn::Vec<IntTag> zero_point;

  Int8Encoder(float inverse_scale, int32_t zero, bool symmetric) {
    const FloatTag df;
    const float z = static_cast<float>(zero);
    inverse = hn::Set(df, inverse_scale);
    lowest = hn::Set(df, (symmetric ? -127.0f : -128.0f) - z);
    highest = hn::Set(df, 127.0f - z);
    zero_point = hn::Set(IntTag(), zero);
  }
  HWY_INLINE UIntVec operator()(FloatVec v, int64_t) const {
    const UIntTag du;
    v = hn::Mul(v, inverse);
    v = hn::IfThenElseZero(hn::Eq(v, v), v);
    v = hn::Max(hn::Min(v, highest), lowest);
    const auto q = hn::BitCast(du, hn::Add(hn::NearestInt(v), zero_point));
    return hn::And(q, hn::Set(du, 0xffu));
  }
};

template <class T, class E>
KPT_SIMD_INLINE void EncodeSpan(const E& encode, const T* x, int64_t n, bool stream,
                                uint8_t* codes) {
  const ByteTag db;
  stream = stream && reinterpret_cast<uintptr_t>(codes) % static_cast<uintptr_t>(kBytes) == 0;
  int64_t i = 0;
  for (; i + kBytes <= n; i += kBytes) {
    const auto bytes = PackCodes(encode(Load(x + i), i), encode(Load(x + i + kLanes), i + kLanes),
                                 encode(Load(x + i + 2 * kLanes), i + 2 * kLanes),
                                 encode(Load(x + i + 3 * kLanes), i + 3 * kLanes));
    if (stream) {
      hn::Stream(bytes, db, codes + i);
    } else {
      hn::StoreU(bytes, db, codes + i);
    }
  }
  if (i == n) return;
  const int64_t m = n - i;
  const auto bytes = PackCodes(
      encode(LoadUpTo(x + i, m), i), encode(LoadUpTo(x + i + kLanes, m - kLanes), i + kLanes),
      encode(LoadUpTo(x + i + 2 * kLanes, m - 2 * kLanes), i + 2 * kLanes),
      encode(LoadUpTo(x + i + 3 * kLanes, m - 3 * kLanes), i + 3 * kLanes));
  alignas(64) uint8_t last[kBytes];
  hn::Store(bytes, db, last);
  std::memcpy(codes + i, last, static_cast<size_t>(m));
}

// As EncodeSpan; `index` is the number of the first element.
template <class F, class T>
void EncodeSpanStochastic(float inverse, uint64_t seed, uint64_t index, const T* x, int64_t n,
                          bool stream, uint8_t* codes) {
  constexpr int64_t kSpan = 1024;
  alignas(64) uint32_t random[kSpan + 2 * kBytes];
  for (int64_t i = 0; i < n; i += kSpan) {
    const int64_t m = n - i < kSpan ? n - i : kSpan;
    const uint64_t first = index + static_cast<uint64_t>(i);
    const int64_t skip = static_cast<int64_t>(first % 4);
    for (int64_t w = 0; w < skip + m; w += kBytes) {
      PhiloxWords(seed, (first + static_cast<uint64_t>(w)) / 4, random + w);
    }
    const StochasticEncoder<F> encode{hn::Set(FloatTag(), inverse), random + skip};
    EncodeSpan(encode, x + i, m, stream, codes + i);
  }
}

// `rows` rows of n columns, in groups of `group` columns that share scales over the rows.
template <class T>
struct Block {
  const T* x;
  int64_t x_step;
  uint8_t* codes;
  int64_t codes_step;
  int64_t rows;
  int64_t n;
  int64_t group;
  uint64_t index;  // of the first element, and from row to row
  uint64_t index_step;
};

// encode_span(group, x, columns, codes, row, first column) for every row and group.
template <class T, class F>
KPT_SIMD_INLINE void EncodeBlock(const Block<T>& b, const F& encode_span) {
  for (int64_t r = 0; r < b.rows; ++r) {
    for (int64_t g = 0, c = 0; c < b.n; ++g, c += b.group) {
      const int64_t m = b.n - c < b.group ? b.n - c : b.group;
      encode_span(g, b.x + r * b.x_step + c, m, b.codes + r * b.codes_step + c, r, c);
    }
  }
}

template <class F, class T>
void EncodeFp8Block(const QuantSpec& spec, const Block<T>& b, const float* inverse) {
  if (spec.stochastic) {
    EncodeBlock(b, [&](int64_t g, const T* x, int64_t m, uint8_t* codes, int64_t r, int64_t c) {
      const uint64_t index =
          b.index + static_cast<uint64_t>(r) * b.index_step + static_cast<uint64_t>(c);
      EncodeSpanStochastic<F>(inverse[g], spec.seed, index, x, m, spec.stream, codes);
    });
  } else {
    EncodeBlock(b,
                [&](int64_t g, const T* x, int64_t m, uint8_t* codes, int64_t, int64_t) HWY_ATTR {
                  const Fp8Encoder<F> encode{hn::Set(FloatTag(), inverse[g])};
                  EncodeSpan(encode, x, m, spec.stream, codes);
                });
  }
}

// Quantizes a block; returns the largest amax when that is asked for.
template <class T>
float QuantizeBlock(const QuantSpec& spec, const Block<T>& b, const GroupScales& scales) {
  // A row without elements is a group too.
  const int64_t groups = b.n == 0 ? 1 : (b.n + b.group - 1) / b.group;
  Range ranges[kMaxGroups] = {};
  float inverse[kMaxGroups];
  int32_t zero[kMaxGroups] = {};
  float largest = 0.0f;
  if (spec.measure_scale || spec.return_amax) {
    for (int64_t r = 0; r < b.rows; ++r) {
      for (int64_t g = 0, c = 0; c < b.n; ++g, c += b.group) {
        const int64_t m = b.n - c < b.group ? b.n - c : b.group;
        Cover(RangeOf(spec.format, b.x + r * b.x_step + c, m), &ranges[g]);
      }
    }
  }
  for (int64_t g = 0; g < groups; ++g) {
    ScaleAndZero s;
    if (spec.measure_scale) {
      s = ScaleOf(spec.format, ranges[g]);
    } else {
      s.scale = scales.scale_in[g];
      s.zero_point = scales.zero_in != nullptr ? scales.zero_in[g] : 0;
    }
    inverse[g] = 1.0f / s.scale;
    zero[g] = s.zero_point;
    if (spec.return_amax && ranges[g].hi > largest) largest = ranges[g].hi;
    if (scales.scale_out != nullptr) {
      scales.scale_out[g] = spec.return_amax ? ranges[g].hi : s.scale;
    }
    if (scales.zero_out != nullptr) scales.zero_out[g] = s.zero_point;
  }
  switch (spec.format) {
    case QuantFormat::kE4M3:
      EncodeFp8Block<E4M3Format>(spec, b, inverse);
      break;
    case QuantFormat::kE5M2:
      EncodeFp8Block<E5M2Format>(spec, b, inverse);
      break;
    default: {
      const bool symmetric = spec.format == QuantFormat::kInt8;
      EncodeBlock(
          b, [&](int64_t g, const T* x, int64_t m, uint8_t* codes, int64_t, int64_t) HWY_ATTR {
            EncodeSpan(Int8Encoder(inverse[g], zero[g], symmetric), x, m, spec.stream, codes);
          });
    }
  }
  return largest;
}

}  // namespace
}  // namespace kpt::cpu::KPT_SIMD_NS
HWY_AFTER_NAMESPACE();

#endif  // KPT_KERNELS_QUANT_CPU_QUANTIZE_GROUPS_H_

#include "kernels/base/float_codec.h"

#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace kpt {
namespace {

// The value of a code straight from the format's definition.
template <class F>
double Defined(int exp_bits, int man_bits, int bias, bool inf, bool fnuz, uint32_t code) {
  const int sign = (code >> (exp_bits + man_bits)) & 1;
  const int exp = (code >> man_bits) & ((1 << exp_bits) - 1);
  const int man = code & ((1 << man_bits) - 1);
  const double nan = std::numeric_limits<double>::quiet_NaN();
  if (fnuz && code == F::kSign) return nan;
  if (inf && exp == (1 << exp_bits) - 1) {
    return man != 0 ? nan : (sign ? -1 : 1) * std::numeric_limits<double>::infinity();
  }
  if (!inf && !fnuz && (code & (F::kSign - 1)) == F::kSign - 1) return nan;
  const double magnitude = exp == 0 ? std::ldexp(man, 1 - bias - man_bits)
                                    : std::ldexp((1 << man_bits) + man, exp - bias - man_bits);
  return sign ? -magnitude : magnitude;
}

// The nearest code, ties to even, by looking at all finite magnitudes (ascending).
template <class F>
uint32_t Nearest(const std::vector<double>& magnitudes, float x, bool saturate, bool inf,
                 bool fnuz) {
  const uint32_t sign = std::signbit(x) ? F::kSign : 0;
  if (std::isnan(x)) return fnuz ? F::kNan : (sign | F::kNan);
  const uint32_t over = saturate ? (sign | F::kMaxFinite)
                        : inf    ? (sign | (F::kMaxFinite + 1))
                        : fnuz   ? F::kNan
                                 : (sign | F::kNan);
  const double a = std::fabs(static_cast<double>(x));
  const size_t last = magnitudes.size() - 1;
  // One step past the largest, as if the exponent went on.
  const double past = magnitudes[last] + (magnitudes[last] - magnitudes[last - 1]);
  if (a > magnitudes[last]) {
    const double half = (magnitudes[last] + past) / 2;
    if (a < half || (a == half && last % 2 == 0)) return sign | static_cast<uint32_t>(last);
    return over;
  }
  size_t lo = 0, hi = last;
  while (hi - lo > 1) {
    const size_t mid = (lo + hi) / 2;
    (magnitudes[mid] <= a ? lo : hi) = mid;
  }
  const double down = a - magnitudes[lo], up = magnitudes[hi] - a;
  const size_t code = down < up || (down == up && lo % 2 == 0) ? lo : hi;
  if (fnuz && code == 0) return 0;
  return sign | static_cast<uint32_t>(code);
}

template <class F, int kExp, int kMan, int kBias, bool kInf, bool kFnuz>
struct Format {
  static void CheckDecode() {
    for (uint32_t code = 0; code < 2 * F::kSign; ++code) {
      const double want = Defined<F>(kExp, kMan, kBias, kInf, kFnuz, code);
      const float got = F::Decode(code);
      if (std::isnan(want)) {
        EXPECT_TRUE(std::isnan(got)) << code;
      } else {
        EXPECT_EQ(static_cast<double>(got), want) << code;
        EXPECT_EQ(std::signbit(got), std::signbit(want)) << code;
      }
    }
  }
  static void CheckRoundTrip() {
    for (uint32_t code = 0; code < 2 * F::kSign; ++code) {
      const float x = F::Decode(code);
      for (bool saturate : {false, true}) {
        const uint32_t back = F::Encode(x, saturate);
        if (std::isnan(x)) {
          EXPECT_TRUE(std::isnan(F::Decode(back))) << code;
        } else if (std::isinf(x) && saturate) {
          EXPECT_EQ(back & (F::kSign - 1), F::kMaxFinite) << code;
        } else {
          EXPECT_EQ(back, code);
        }
      }
    }
  }
  static void CheckEncode(const std::vector<float>& inputs) {
    std::vector<double> magnitudes;
    for (uint32_t code = 0; code <= F::kMaxFinite; ++code) magnitudes.push_back(F::Decode(code));
    int shown = 0;
    for (float x : inputs) {
      for (bool saturate : {false, true}) {
        const uint32_t want = Nearest<F>(magnitudes, x, saturate, kInf, kFnuz);
        const uint32_t got = F::Encode(x, saturate);
        if (got != want && ++shown < 10) {
          ADD_FAILURE() << x << " saturate " << saturate << ": got " << got << ", want " << want;
        }
      }
    }
  }
};

using E4M3FNFormat = Format<E4M3FN, 4, 3, 7, false, false>;
using E5M2Format = Format<E5M2, 5, 2, 15, true, false>;
using E4M3FNUZFormat = Format<E4M3FNUZ, 4, 3, 8, false, true>;
using HalfFormat = Format<Half, 5, 10, 15, true, false>;

// Every half, every midpoint of neighbouring halves and its neighbours, and random bit patterns.
std::vector<float> Inputs() {
  std::vector<float> inputs;
  for (uint32_t code = 0; code < 65536; ++code) {
    const float x = Half::Decode(code);
    inputs.push_back(x);
    if (std::isfinite(x)) {
      const float next = Half::Decode(code + 1);
      if (std::isfinite(next)) inputs.push_back((x + next) / 2);
    }
  }
  for (double m : {0.0,      0x1p-16,  0x1p-17, 0x1p-18, 0x1p-24, 0x1p-25, 0x1p-26,
                   0x1p-149, 0x1p-126, 448.0,   464.0,   480.0,   240.0,   248.0,
                   256.0,    57344.0,  61440.0, 65504.0, 65520.0, 1e30,    3.4e38}) {
    for (float x : {static_cast<float>(m), std::nextafter(static_cast<float>(m), 0.0f),
                    std::nextafter(static_cast<float>(m), INFINITY)}) {
      inputs.push_back(x);
      inputs.push_back(-x);
    }
  }
  std::mt19937 random(1);
  for (int i = 0; i < 300000; ++i) inputs.push_back(FloatFromBits(random()));
  std::uniform_real_distribution<float> exponent(-30, 18);
  for (int i = 0; i < 300000; ++i) {
    const float x = std::exp2(exponent(random));
    inputs.push_back(i % 2 ? x : -x);
  }
  return inputs;
}

template <class F>
class FloatCodec : public testing::Test {};
using Formats = testing::Types<E4M3FNFormat, E5M2Format, E4M3FNUZFormat, HalfFormat>;
TYPED_TEST_SUITE(FloatCodec, Formats);

TYPED_TEST(FloatCodec, DecodesEveryCodeAsDefined) { TypeParam::CheckDecode(); }
TYPED_TEST(FloatCodec, EncodesEveryDecodedCodeBack) { TypeParam::CheckRoundTrip(); }
TYPED_TEST(FloatCodec, RoundsToNearestEven) { TypeParam::CheckEncode(Inputs()); }

TEST(FloatCodecValues, Limits) {
  EXPECT_EQ(E4M3FN::Decode(E4M3FN::kMaxFinite), 448.0f);
  EXPECT_EQ(E5M2::Decode(E5M2::kMaxFinite), 57344.0f);
  EXPECT_EQ(E4M3FNUZ::Decode(E4M3FNUZ::kMaxFinite), 240.0f);
  EXPECT_EQ(Half::Decode(Half::kMaxFinite), 65504.0f);
  EXPECT_EQ(E4M3FN::Decode(1), 0x1p-9f);
  EXPECT_EQ(E5M2::Decode(1), 0x1p-16f);
  EXPECT_EQ(E4M3FNUZ::Decode(1), 0x1p-10f);
  EXPECT_EQ(E4M3FNUZ::Encode(-0.0f, false), 0u);
}

TEST(Bf16Codec, DecodesAndEncodesEveryCode) {
  for (uint32_t code = 0; code < 65536; ++code) {
    const float x = DecodeBf16(static_cast<uint16_t>(code));
    EXPECT_EQ(FloatBits(x), code << 16);
    if (std::isnan(x)) {
      EXPECT_TRUE(std::isnan(DecodeBf16(EncodeBf16(x)))) << code;
    } else {
      EXPECT_EQ(EncodeBf16(x), code);
    }
  }
}

TEST(FloatCodecValues, NanIsTheCodeThatTorchWrites) {
  const float nan = FloatFromBits(0x7fc00000);
  EXPECT_EQ(E4M3FN::Encode(nan, true), 0x7fu);
  EXPECT_EQ(E5M2::Encode(nan, true), 0x7fu);
  EXPECT_EQ(E5M2::Encode(-nan, false), 0xffu);
  EXPECT_EQ(E4M3FNUZ::Encode(nan, false), 0x80u);
  EXPECT_EQ(EncodeHalf(nan), 0x7e00u);
}

TEST(Bf16Codec, RoundsToNearestEven) {
  std::mt19937 random(2);
  for (int i = 0; i < 1000000; ++i) {
    const uint32_t bits = random();
    const float x = FloatFromBits(bits);
    const uint16_t got = EncodeBf16(x);
    if (std::isnan(x)) {
      ASSERT_TRUE(std::isnan(DecodeBf16(got)));
      continue;
    }
    const uint32_t low = bits & 0xffff;
    const uint32_t down = bits >> 16;
    const bool up = low > 0x8000 || (low == 0x8000 && down % 2 != 0);
    ASSERT_EQ(got, down + (up ? 1 : 0)) << bits;
  }
  EXPECT_EQ(EncodeBf16(FloatFromBits(0x7f800001)), 0x7fc0);  // a NaN that truncation would lose
  EXPECT_TRUE(std::isnan(DecodeBf16(EncodeBf16(FloatFromBits(0x7fffffff)))));
  EXPECT_TRUE(std::isinf(DecodeBf16(EncodeBf16(3.4e38f))));
}

}  // namespace
}  // namespace kpt

// quantize_fp8 and dequantize_fp8: their GPU kernels in emulation (not run on a GPU), code by code.
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/base/float_codec.h"
#include "kernels/quant/dequantize_fp8.h"
#include "kernels/quant/gpu/quantize_workspace.h"
#include "tests/kernels/base/row_op_testing.h"
#include "tests/kernels/gpu_emulated/emulated_testing.h"

namespace kpt::emulated {
namespace {

using emulated_testing::Context;
using testing_util::kFloats;
using testing_util::Tensor;

constexpr Granularity kGranularities[] = {Granularity::kTensor, Granularity::kRow,
                                          Granularity::kBlock1x128, Granularity::kBlock128x128};
constexpr DType kFormats[] = {DType::kFloat8E4M3FN, DType::kFloat8E5M2};

int64_t Blocks(int64_t n) { return (n + 127) / 128; }

uint32_t Encode(DType format, float x) {
  return format == DType::kFloat8E4M3FN ? E4M3FN::Encode(x, true) : E5M2::Encode(x, true);
}
float Decode(DType format, uint32_t code) {
  return format == DType::kFloat8E4M3FN ? E4M3FN::Decode(code) : E5M2::Decode(code);
}

// Bytes and scales in heap memory of exactly their size.
struct Codes {
  DType format;
  int64_t rows, cols, stride;
  std::vector<uint8_t> bytes;

  Codes(DType f, int64_t r, int64_t c, int64_t gap)
      : format(f),
        rows(r),
        cols(c),
        stride(c + gap),
        bytes(static_cast<size_t>(r > 0 ? (r - 1) * stride + c : 0), 0xa5) {}
  MutableTensorView view() {
    MutableTensorView v;
    v.data = bytes.data();
    v.dtype = format;
    v.rank = 2;
    v.shape[0] = rows, v.shape[1] = cols;
    v.strides[0] = stride, v.strides[1] = 1;
    return v;
  }
  uint8_t at(int64_t r, int64_t c) const { return bytes[static_cast<size_t>(r * stride + c)]; }
};

struct Scales {
  Granularity granularity;
  int64_t rows, cols;  // of scales
  std::vector<float> values;

  Scales(Granularity g, int64_t m, int64_t n) : granularity(g), rows(1), cols(1) {
    if (g != Granularity::kTensor) rows = g == Granularity::kBlock128x128 ? Blocks(m) : m;
    if (g == Granularity::kBlock1x128 || g == Granularity::kBlock128x128) cols = Blocks(n);
    values.assign(static_cast<size_t>(rows * cols), -1.0f);
  }
  MutableTensorView view() {
    MutableTensorView v;
    v.data = values.data();
    v.dtype = DType::kFloat32;
    v.rank = granularity == Granularity::kTensor ? 0 : granularity == Granularity::kRow ? 1 : 2;
    v.shape[0] = rows, v.shape[1] = cols;
    v.strides[0] = cols, v.strides[1] = 1;
    return v;
  }
  float& of(int64_t r, int64_t c) {
    const int64_t i = granularity == Granularity::kTensor         ? 0
                      : granularity == Granularity::kBlock128x128 ? r / 128
                                                                  : r;
    const int64_t j = cols > 1 ? c / 128 : 0;
    return values[static_cast<size_t>(i * cols + j)];
  }
};

float ScaleRule(DType format, float amax) {
  if (amax == 0.0f) return 1.0f;
  const float scale = amax / (format == DType::kFloat8E4M3FN ? 448.0f : 57344.0f);
  if (!std::isfinite(scale)) return NAN;
  return std::fmax(scale, 0x1p-126f);
}

bool SameBits(float a, float b) { return (std::isnan(a) && std::isnan(b)) || a == b; }

Status Quantize(QuantizeFp8Args args, const char* variant, std::string* ran) {
  LaunchRecord record;
  LaunchContext ctx = Context(variant, &record);
  std::vector<float> workspace(static_cast<size_t>(QuantizeFp8WorkspaceBytes(ctx, args) / 4), NAN);
  ctx.workspace = workspace.data();
  ctx.workspace_bytes = static_cast<int64_t>(workspace.size()) * 4;
  const Status status = QuantizeFp8(ctx, args);
  if (record.variant != nullptr) *ran = record.variant;
  return status;
}

void Check(const char* variant, DType dtype, DType format, Granularity granularity, int64_t m,
           int64_t n, int64_t gap, bool special = false) {
  Tensor x(dtype, m, n, gap);
  std::mt19937 random(static_cast<unsigned>(m * 1000 + n));
  x.Fill(&random, 0.0f, 3.0f);
  if (special && m * n > 0) {
    x.Set(0, 0, NAN);
    if (m > 1) x.Set(m - 1, n - 1, INFINITY);
  }
  Scales amax(granularity, m, n), scale(granularity, m, n), got_scale(granularity, m, n);
  for (float& v : amax.values) v = 0.0f;
  for (int64_t r = 0; r < m; ++r) {
    for (int64_t c = 0; c < n; ++c) {
      amax.of(r, c) = std::fmax(amax.of(r, c), std::fabs(x.Get(r, c)));
    }
  }
  for (size_t i = 0; i < scale.values.size(); ++i) {
    scale.values[i] = ScaleRule(format, amax.values[i]);
  }
  // Measured; given; given, with amax asked for.
  for (int mode = 0; mode < 3; ++mode) {
    if (mode > 0) {
      for (float& v : scale.values) v = 0.0125f;
    }
    Codes codes(format, m, n, gap == 16 ? 8 : gap);
    QuantizeFp8Args args;
    args.x_q = codes.view();
    args.scale_out = got_scale.view();
    args.x = x.view();
    if (mode > 0) args.scale = scale.view();
    args.return_amax = mode == 2;
    args.granularity = granularity;
    std::string ran;
    const Status status = Quantize(args, variant, &ran);
    ASSERT_TRUE(status.ok()) << status.message();
    const std::string where = ran + " " + Name(dtype) + " " + Name(format) + " granularity " +
                              std::to_string(static_cast<int>(granularity)) + " [" +
                              std::to_string(m) + ", " + std::to_string(n) + "] mode " +
                              std::to_string(mode);
    for (size_t i = 0; i < scale.values.size(); ++i) {
      const float want = mode == 2 ? amax.values[i] : scale.values[i];
      ASSERT_TRUE(SameBits(got_scale.values[i], want))
          << where << " scale " << i << " " << got_scale.values[i] << " " << want;
    }
    for (int64_t r = 0; r < m; ++r) {
      for (int64_t c = 0; c < n; ++c) {
        const uint32_t want = Encode(format, x.Get(r, c) * (1.0f / scale.of(r, c)));
        ASSERT_TRUE(SameBits(Decode(format, codes.at(r, c)), Decode(format, want)))
            << where << " at " << r << ", " << c;
      }
    }
    // And back.
    Tensor back(dtype, m, n, gap);
    const Status decoded =
        DequantizeFp8(Context(variant), {back.view(), codes.view(), scale.view()});
    ASSERT_TRUE(decoded.ok()) << decoded.message();
    Tensor one(dtype, 1, 1);
    for (int64_t r = 0; r < m; ++r) {
      for (int64_t c = 0; c < n; ++c) {
        one.Set(0, 0, Decode(format, codes.at(r, c)) * scale.of(r, c));
        ASSERT_TRUE(SameBits(back.Get(r, c), one.Get(0, 0))) << where << " back";
      }
    }
    EXPECT_TRUE(back.GapsUntouched());
  }
}

TEST(EmulatedQuantizeFp8, VectorsCodeByCode) {
  for (DType dtype : kFloats) {
    for (Granularity granularity : kGranularities) {
      for (DType format : kFormats) {
        Check("vectors", dtype, format, granularity, 3, 128, 0);
        Check("vectors", dtype, format, granularity, 130, 264, 16);
        Check("vectors", dtype, format, granularity, 2, 1000, 0, true);
      }
      Check("vectors", dtype, DType::kFloat8E4M3FN, granularity, 1, 4096, 0);
      Check("vectors", dtype, DType::kFloat8E4M3FN, granularity, 257, 8, 0);
    }
  }
}

TEST(EmulatedQuantizeFp8, ScalarsCodeByCode) {
  for (DType dtype : kFloats) {
    for (Granularity granularity : kGranularities) {
      for (int64_t n : {1, 127, 129, 300}) {
        Check("scalars", dtype, DType::kFloat8E4M3FN, granularity, 3, n, 3);
        Check("scalars", dtype, DType::kFloat8E5M2, granularity, 130, n, 1, true);
      }
      Check("scalars", dtype, DType::kFloat8E4M3FN, granularity, 1, 4097, 0);
    }
  }
}

TEST(EmulatedQuantizeFp8, LongestRows) {
  for (Granularity granularity : kGranularities) {
    Check(nullptr, DType::kBFloat16, DType::kFloat8E4M3FN, granularity, 2, 262144, 0);
  }
  Check(nullptr, DType::kFloat32, DType::kFloat8E4M3FN, Granularity::kRow, 1, 40001, 0);
}

TEST(EmulatedQuantizeFp8, EmptyTensorsHaveScalesToo) {
  for (Granularity granularity : kGranularities) {
    Check(nullptr, DType::kFloat32, DType::kFloat8E4M3FN, granularity, 0, 16, 0);
    if (granularity == Granularity::kTensor || granularity == Granularity::kRow) {
      Check(nullptr, DType::kFloat32, DType::kFloat8E4M3FN, granularity, 3, 0, 0);
    }
  }
}

TEST(EmulatedQuantizeFp8, TinyAndHugeScales) {
  for (float size : {1e-38f, 1e-44f, 3e38f}) {
    Tensor x(DType::kFloat32, 1, 16);
    for (int64_t c = 0; c < 16; ++c) x.Set(0, c, size * (static_cast<float>(c) / 16.0f));
    Codes codes(DType::kFloat8E4M3FN, 1, 16, 0);
    Scales scale(Granularity::kRow, 1, 16);
    QuantizeFp8Args args;
    args.x_q = codes.view();
    args.scale_out = scale.view();
    args.x = x.view();
    args.granularity = Granularity::kRow;
    std::string ran;
    ASSERT_TRUE(Quantize(args, nullptr, &ran).ok());
    EXPECT_EQ(scale.values[0], ScaleRule(DType::kFloat8E4M3FN, x.Get(0, 15)));
    for (int64_t c = 0; c < 16; ++c) {
      EXPECT_EQ(codes.at(0, c),
                Encode(DType::kFloat8E4M3FN, x.Get(0, c) * (1.0f / scale.values[0])));
    }
  }
}

// Philox4x32-10, word by word: the reference of "Parallel random numbers" (2011), with its
// constants.
uint32_t PhiloxWord(uint64_t seed, uint64_t index) {
  uint32_t x[4] = {static_cast<uint32_t>(index / 4), static_cast<uint32_t>((index / 4) >> 32), 0,
                   0};
  uint32_t key[2] = {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53u} * x[0], b = uint64_t{0xCD9E8D57u} * x[2];
    const uint32_t next[4] = {
        static_cast<uint32_t>(b >> 32) ^ x[1] ^ key[0], static_cast<uint32_t>(b),
        static_cast<uint32_t>(a >> 32) ^ x[3] ^ key[1], static_cast<uint32_t>(a)};
    std::memcpy(x, next, sizeof(x));
    key[0] += 0x9E3779B9u;
    key[1] += 0xBB67AE85u;
  }
  return x[index % 4];
}

TEST(EmulatedQuantizeFp8, PhiloxGivesItsPublishedWords) {
  // Of the counter and the key 0, from the known-answer tests of Random123.
  EXPECT_EQ(PhiloxWord(0, 0), 0x6627e8d5u);
  EXPECT_EQ(PhiloxWord(0, 1), 0xe169c58du);
  EXPECT_EQ(PhiloxWord(0, 2), 0xbc57ac4cu);
  EXPECT_EQ(PhiloxWord(0, 3), 0x9b00dbd8u);
}

// The lower neighbour, or the upper one where the distance and the random fraction reach 1.
float RoundAtRandom(DType format, float x, uint32_t random) {
  const bool e4m3 = format == DType::kFloat8E4M3FN;
  const int mantissa = e4m3 ? 3 : 2, least = e4m3 ? -6 : -14, bits = 23 - mantissa;
  const double most = e4m3 ? 448.0 : 57344.0;
  if (std::isnan(x)) return x;
  const double magnitude = std::fmin(std::fabs(static_cast<double>(x)), most);
  int exponent = magnitude > 0.0 ? std::ilogb(magnitude) : least;
  if (exponent < least) exponent = least;
  const double grid = std::ldexp(1.0, exponent - mantissa);
  const double fraction = std::ldexp(static_cast<double>(random >> (32 - bits)), -bits);
  const double steps = magnitude / grid;
  const double kept = std::floor(std::ldexp(steps, bits)) * std::ldexp(1.0, -bits);
  return static_cast<float>(std::copysign(std::floor(kept + fraction) * grid, x));
}

TEST(EmulatedQuantizeFp8, StochasticRoundingDependsOnSeedAndPositionAlone) {
  constexpr uint64_t kSeed = 0x123456789abcdefull;
  for (const char* variant : {"vectors", "scalars"}) {
    for (DType format : kFormats) {
      for (Granularity granularity : kGranularities) {
        const int64_t m = 131, n = variant[0] == 'v' ? 264 : 131;
        Tensor x(DType::kFloat32, m, n, 4);
        std::mt19937 random(7);
        x.Fill(&random, 0.0f, 3.0f);
        x.Set(0, 1, -NAN);
        x.Set(1, 2, -1e-5f);
        x.Set(2, 3, 0.0f);
        Codes codes(format, m, n, 8);
        Scales scale(granularity, m, n), given(granularity, m, n);
        for (float& v : given.values) v = 0.02f;
        QuantizeFp8Args args;
        args.x_q = codes.view();
        args.scale_out = scale.view();
        args.x = x.view();
        args.scale = given.view();
        args.granularity = granularity;
        args.stochastic = true;
        args.seed = kSeed;
        std::string ran;
        const Status status = Quantize(args, variant, &ran);
        ASSERT_TRUE(status.ok()) << status.message();
        for (int64_t r = 0; r < m; ++r) {
          for (int64_t c = 0; c < n; ++c) {
            const uint32_t word = PhiloxWord(kSeed, static_cast<uint64_t>(r * n + c));
            const float want = RoundAtRandom(format, x.Get(r, c) * (1.0f / 0.02f), word);
            const float got = Decode(format, codes.at(r, c));
            ASSERT_TRUE(SameBits(got, want) && std::signbit(got) == std::signbit(want))
                << variant << " " << Name(format) << " at " << r << ", " << c << ": " << got
                << " instead of " << want << " for " << x.Get(r, c);
          }
        }
      }
    }
  }
}

// ---- quantize_int8

struct Int8Want {
  float scale;
  int32_t zero;
};

Int8Want Int8Rule(bool symmetric, const std::vector<float>& group) {
  float lo = 0.0f, hi = 0.0f, amax = 0.0f;
  bool finite = true;
  for (float v : group) {
    finite = finite && std::isfinite(v);
    lo = std::fmin(lo, v), hi = std::fmax(hi, v), amax = std::fmax(amax, std::fabs(v));
  }
  if (!finite) return {NAN, 0};
  float scale = symmetric ? amax / 127.0f : (hi * 0.5f - lo * 0.5f) / 127.5f;
  scale = amax == 0.0f ? 1.0f : std::fmax(scale, 0x1p-126f);
  if (symmetric) return {scale, 0};
  return {scale, -128 - static_cast<int32_t>(std::nearbyint(lo * (1.0f / scale)))};
}

void CheckInt8(const char* variant, DType dtype, Granularity granularity, bool symmetric, int64_t m,
               int64_t n, bool special) {
  Tensor x(dtype, m, n, 8);
  std::mt19937 random(static_cast<unsigned>(m + n));
  x.Fill(&random, 1.0f, 3.0f);
  for (int64_t c = 0; special && c < n; ++c) x.Set(0, c, 0.0f);
  if (special && m > 1) x.Set(1, n / 2, NAN);
  if (special && m > 2) x.Set(2, 0, -INFINITY);
  const bool one = granularity == Granularity::kTensor;
  std::vector<Int8Want> want;
  for (int64_t r = 0; r < m; ++r) {
    std::vector<float> group;
    for (int64_t i = one ? 0 : r; i < (one ? m : r + 1); ++i) {
      for (int64_t c = 0; c < n; ++c) group.push_back(x.Get(i, c));
    }
    want.push_back(Int8Rule(symmetric, group));
  }
  Codes codes(DType::kInt8, m, n, 8);
  Scales scale(granularity, m, n);
  std::vector<int32_t> zeros(scale.values.size(), 77);
  QuantizeInt8Args args;
  args.x_q = codes.view();
  args.scale_out = scale.view();
  args.zero_point_out = scale.view();
  args.zero_point_out.data = zeros.data();
  args.zero_point_out.dtype = DType::kInt32;
  args.x = x.view();
  args.granularity = granularity;
  args.symmetric = symmetric;
  LaunchRecord record;
  LaunchContext ctx = Context(variant, &record);
  std::vector<float> workspace(static_cast<size_t>(QuantizeInt8WorkspaceBytes(ctx, args) / 4), NAN);
  ctx.workspace = workspace.data();
  ctx.workspace_bytes = static_cast<int64_t>(workspace.size()) * 4;
  const Status status = QuantizeInt8(ctx, args);
  ASSERT_TRUE(status.ok()) << status.message();
  for (int64_t r = 0; r < m; ++r) {
    const Int8Want w = want[static_cast<size_t>(r)];
    const size_t at = one ? 0 : static_cast<size_t>(r);
    ASSERT_TRUE(SameBits(scale.values[at], w.scale)) << r << ": " << scale.values[at];
    ASSERT_EQ(zeros[at], w.zero) << r;
    for (int64_t c = 0; c < n; ++c) {
      float v = x.Get(r, c) * (1.0f / w.scale);
      const float zero = static_cast<float>(w.zero);
      v = std::isnan(v)
              ? 0.0f
              : std::fmin(std::fmax(v, (symmetric ? -127.f : -128.f) - zero), 127.0f - zero);
      const int q = static_cast<int>(std::nearbyint(v)) + w.zero;
      ASSERT_EQ(static_cast<int8_t>(codes.at(r, c)), q) << r << ", " << c;
    }
  }
}

TEST(EmulatedQuantizeInt8, CodeByCode) {
  for (DType dtype : kFloats) {
    for (Granularity granularity : {Granularity::kTensor, Granularity::kRow}) {
      for (bool symmetric : {true, false}) {
        CheckInt8("vectors", dtype, granularity, symmetric, 5, 264, false);
        CheckInt8("vectors", dtype, granularity, symmetric, 4, 8, true);
        CheckInt8("scalars", dtype, granularity, symmetric, 3, 129, true);
        CheckInt8("scalars", dtype, granularity, symmetric, 2, 1, false);
      }
    }
  }
  CheckInt8(nullptr, DType::kBFloat16, Granularity::kRow, false, 1, 40960, false);
}

}  // namespace
}  // namespace kpt::emulated

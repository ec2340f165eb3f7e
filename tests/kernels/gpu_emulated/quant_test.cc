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
#include "kernels/quant/gpu/quantize_fp8.h"
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

TEST(EmulatedQuantizeFp8, StochasticRoundingIsNotNative) {
  Tensor x(DType::kFloat32, 1, 16);
  Codes codes(DType::kFloat8E4M3FN, 1, 16, 0);
  Scales scale(Granularity::kRow, 1, 16);
  QuantizeFp8Args args;
  args.x_q = codes.view();
  args.scale_out = scale.view();
  args.x = x.view();
  args.granularity = Granularity::kRow;
  args.stochastic = true;
  EXPECT_EQ(QuantizeFp8(Context(), args).code(), StatusCode::kUnimplemented);
}

}  // namespace
}  // namespace kpt::emulated

// fused_norm_quantize and fused_act_quantize: their GPU kernels in emulation (not run on a GPU),
// against float64.
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/base/float_codec.h"
#include "kernels/quant/fused_act_quantize.h"
#include "kernels/quant/fused_norm_quantize.h"
#include "tests/kernels/base/row_op_testing.h"
#include "tests/kernels/gpu_emulated/emulated_testing.h"

namespace kpt::emulated {
namespace {

using emulated_testing::Context;
using testing_util::kFloats;
using testing_util::Tensor;
using Rows = std::vector<std::vector<double>>;

constexpr DType kFormats[] = {DType::kFloat8E4M3FN, DType::kFloat8E5M2, DType::kInt8};

double Largest(DType format) {
  return format == DType::kInt8 ? 127.0 : format == DType::kFloat8E4M3FN ? 448.0 : 57344.0;
}
float Decode(DType format, uint8_t code) {
  return format == DType::kInt8           ? static_cast<float>(static_cast<int8_t>(code))
         : format == DType::kFloat8E4M3FN ? E4M3FN::Decode(code)
                                          : E5M2::Decode(code);
}
// The most that rounding moves a number of this size, in units of the scale.
double HalfStep(DType format, double x) {
  if (format == DType::kInt8) return 0.5;
  const int mantissa = format == DType::kFloat8E4M3FN ? 3 : 2;
  const int least = format == DType::kFloat8E4M3FN ? -6 : -14;
  const int exponent = std::max(x > 0.0 ? std::ilogb(x) : least, least);
  return std::ldexp(0.5, exponent - mantissa);
}

struct Quantized {
  DType format;
  Granularity granularity;
  int64_t m, n, stride, blocks;
  std::vector<uint8_t> codes;
  std::vector<float> scales, given;

  Quantized(DType f, Granularity g, int64_t rows, int64_t cols)
      : format(f), granularity(g), m(rows), n(cols), stride(cols + 8), blocks(1) {
    if (g == Granularity::kBlock1x128) blocks = (n + 127) / 128;
    codes.assign(static_cast<size_t>(std::max<int64_t>(m * stride - 8, 0)), 0xa5);
    scales.assign(static_cast<size_t>(g == Granularity::kTensor ? 1 : m * blocks), -1.0f);
    given.assign(scales.size(), 0.04f);
  }
  MutableTensorView code_view() {
    MutableTensorView v;
    v.data = codes.data(), v.dtype = format, v.rank = 2;
    v.shape[0] = m, v.shape[1] = n, v.strides[0] = stride, v.strides[1] = 1;
    return v;
  }
  MutableTensorView scale_view(std::vector<float>* values) {
    MutableTensorView v;
    v.data = values->data(), v.dtype = DType::kFloat32;
    v.rank = granularity == Granularity::kTensor ? 0 : granularity == Granularity::kRow ? 1 : 2;
    v.shape[0] = m, v.shape[1] = blocks, v.strides[0] = blocks, v.strides[1] = 1;
    if (v.rank == 1) v.strides[0] = 1;
    return v;
  }

  // Scales within a few units in the last place of float, codes within half a step and a bit.
  void Check(const Rows& want, bool measured, double slack, const std::string& where) const {
    for (int64_t r = 0; r < m; ++r) {
      for (int64_t b = 0; b < blocks; ++b) {
        const int64_t begin = blocks > 1 ? 128 * b : 0, end = blocks > 1 ? begin + 128 : n;
        double amax = 0.0;
        for (int64_t c = begin; c < std::min(end, n); ++c) {
          amax = std::max(amax, std::fabs(want[r][c]));
        }
        const size_t at =
            granularity == Granularity::kTensor ? 0 : static_cast<size_t>(r * blocks + b);
        const double scale = !measured ? 0.04f : amax == 0.0 ? 1.0 : amax / Largest(format);
        ASSERT_NEAR(scales[at], scale, 1e-5 * scale + slack / Largest(format)) << where << " " << r;
        for (int64_t c = begin; c < std::min(end, n); ++c) {
          const double exact = want[r][c] / scales[at];
          const double clipped = std::fmin(std::fmax(exact, -Largest(format)), Largest(format));
          const double got = Decode(format, codes[static_cast<size_t>(r * stride + c)]);
          ASSERT_NEAR(got, clipped,
                      HalfStep(format, std::fabs(clipped)) + 1e-5 * std::fabs(exact) + 1e-5 +
                          slack / scales[at])
              << where << " at " << r << ", " << c;
        }
      }
    }
    for (int64_t r = 0; r + 1 < m; ++r) {
      for (int64_t c = n; c < stride; ++c) {
        ASSERT_EQ(codes[static_cast<size_t>(r * stride + c)], 0xa5) << where << " gap";
      }
    }
  }
};

void CheckNorm(const char* variant, DType dtype, DType format, Granularity granularity, int64_t m,
               int64_t n, bool layer, bool add, bool give) {
  std::mt19937 random(static_cast<unsigned>(m * 100 + n));
  Tensor x(dtype, m, n, 8), residual(dtype, m, n, 16), sum(dtype, m, n, 8);
  Tensor weight(DType::kFloat32, 1, n), bias(dtype, 1, n);
  x.Fill(&random, 0.5f, 1.0f);
  residual.Fill(&random, 0.0f, 1.0f);
  weight.Fill(&random, 1.0f, 0.2f);
  bias.Fill(&random, 0.0f, 0.2f);
  Quantized q(format, granularity, m, n);
  FusedNormQuantizeArgs args;
  args.y_q = q.code_view();
  args.scale_out = q.scale_view(&q.scales);
  args.x = x.view();
  args.weight = weight.row_view();
  if (layer) args.bias = bias.row_view();
  if (add) args.residual = residual.view(), args.new_residual = sum.view();
  if (give) args.scale = q.scale_view(&q.given);
  args.granularity = granularity;
  args.subtract_mean = layer;
  LaunchRecord record;
  const Status status = FusedNormQuantize(Context(variant, &record), args);
  ASSERT_TRUE(status.ok()) << status.message();
  Rows want(static_cast<size_t>(m));
  for (int64_t r = 0; r < m; ++r) {
    std::vector<double> h;
    for (int64_t c = 0; c < n; ++c) {
      Tensor one(dtype, 1, 1);
      one.Set(0, 0, add ? x.Get(r, c) + residual.Get(r, c) : x.Get(r, c));
      h.push_back(one.Get(0, 0));
      if (add) {
        ASSERT_EQ(sum.Get(r, c), h.back());
      }
    }
    double mean = 0.0, square = 0.0;
    for (double v : h) mean += layer ? v / static_cast<double>(n) : 0.0;
    for (double v : h) square += (v - mean) * (v - mean) / static_cast<double>(n);
    for (int64_t c = 0; c < n; ++c) {
      const double y = (h[c] - mean) / std::sqrt(square + args.eps) * weight.Get(0, c);
      want[r].push_back(layer ? y + bias.Get(0, c) : y);
    }
  }
  q.Check(want, !give, 1e-5, std::string(record.variant) + " " + Name(dtype) + " " + Name(format));
  EXPECT_TRUE(sum.GapsUntouched());
}

TEST(EmulatedFusedNormQuantize, AgainstFloat64) {
  for (DType dtype : kFloats) {
    for (DType format : kFormats) {
      for (Granularity g : {Granularity::kTensor, Granularity::kRow, Granularity::kBlock1x128}) {
        if (g == Granularity::kBlock1x128 && format == DType::kInt8) continue;
        const bool give = g == Granularity::kTensor;
        CheckNorm("vectors", dtype, format, g, 5, 264, false, false, give);
        CheckNorm("vectors", dtype, format, g, 17, 64, true, true, give);
        CheckNorm("vectors", dtype, format, g, 2, 8, false, true, true);
        CheckNorm("scalars", dtype, format, g, 3, 129, true, false, give);
        CheckNorm("scalars", dtype, format, g, 2, 300, false, true, give);
        CheckNorm("scalars", dtype, format, g, 3, 1, false, false, true);
      }
    }
  }
}

TEST(EmulatedFusedNormQuantize, RowsLongerThanTheirThreadsHold) {
  for (Granularity g : {Granularity::kRow, Granularity::kBlock1x128}) {
    CheckNorm("vectors", DType::kBFloat16, DType::kFloat8E4M3FN, g, 1, 20488, true, true, false);
    CheckNorm("scalars", DType::kFloat32, DType::kFloat8E4M3FN, g, 1, 20489, false, true, false);
  }
}

double Activation(ActivationKind kind, double x) {
  switch (kind) {
    case ActivationKind::kRelu:
      return x > 0.0 ? x : 0.0;
    case ActivationKind::kGelu:
      return 0.5 * x * std::erfc(-x / std::sqrt(2.0));
    default:
      return x / (1.0 + std::exp(-x));
  }
}

void CheckAct(const char* variant, DType dtype, DType format, Granularity granularity, int64_t m,
              int64_t n, ActivationKind kind, bool gated, bool give) {
  std::mt19937 random(static_cast<unsigned>(m * 100 + n));
  Tensor x(dtype, m, gated ? 2 * n : n, 8);
  x.Fill(&random, 0.0f, 2.0f);
  Quantized q(format, granularity, m, n);
  FusedActQuantizeArgs args;
  args.y_q = q.code_view();
  args.scale_out = q.scale_view(&q.scales);
  args.x = x.view();
  if (give) args.scale = q.scale_view(&q.given);
  args.granularity = granularity;
  args.kind = kind;
  args.gated = gated;
  LaunchRecord record;
  const Status status = FusedActQuantize(Context(variant, &record), args);
  ASSERT_TRUE(status.ok()) << status.message();
  Rows want(static_cast<size_t>(m));
  for (int64_t r = 0; r < m; ++r) {
    for (int64_t c = 0; c < n; ++c) {
      const double y = Activation(kind, x.Get(r, c));
      want[r].push_back(gated ? y * x.Get(r, n + c) : y);
    }
  }
  q.Check(want, !give, 2e-6, std::string(record.variant) + " " + Name(dtype) + " " + Name(format));
}

TEST(EmulatedFusedActQuantize, AgainstFloat64) {
  for (DType dtype : kFloats) {
    for (DType format : kFormats) {
      for (Granularity g : {Granularity::kTensor, Granularity::kRow, Granularity::kBlock1x128}) {
        if (g == Granularity::kBlock1x128 && format == DType::kInt8) continue;
        const bool give = g == Granularity::kTensor;
        CheckAct("vectors", dtype, format, g, 5, 264, ActivationKind::kSilu, true, give);
        CheckAct("vectors", dtype, format, g, 17, 64, ActivationKind::kGelu, false, give);
        CheckAct("scalars", dtype, format, g, 3, 129, ActivationKind::kSilu, true, give);
        CheckAct("scalars", dtype, format, g, 2, 300, ActivationKind::kRelu, false, true);
      }
    }
  }
  CheckAct(nullptr, DType::kBFloat16, DType::kFloat8E4M3FN, Granularity::kBlock1x128, 1, 12296,
           ActivationKind::kSilu, true, false);
}

TEST(EmulatedFusedQuantize, OneScaleIsHandedOnWithoutRows) {
  Tensor x(DType::kFloat32, 0, 16);
  Quantized q(DType::kInt8, Granularity::kTensor, 0, 16);
  FusedActQuantizeArgs args;
  args.y_q = q.code_view();
  args.scale_out = q.scale_view(&q.scales);
  args.x = x.view();
  args.scale = q.scale_view(&q.given);
  args.granularity = Granularity::kTensor;
  ASSERT_TRUE(FusedActQuantize(Context(), args).ok());
  EXPECT_EQ(q.scales[0], 0.04f);
}

}  // namespace
}  // namespace kpt::emulated

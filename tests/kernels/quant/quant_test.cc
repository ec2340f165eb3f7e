// The quant family below Python: every instruction set against the scalar codecs, tails and gaps
// between rows, the shapes of scales, and refusals.
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/quant/dequantize_fp8.h"
#include "kernels/quant/fused_act_quantize.h"
#include "kernels/quant/fused_norm_quantize.h"
#include "kernels/quant/quantize_fp8.h"
#include "kernels/quant/quantize_int8.h"
#include "tests/kernels/base/row_op_testing.h"

namespace kpt::cpu {
namespace {

using testing_util::At;
using testing_util::kFloats;
using testing_util::kWidths;
using testing_util::Levels;
using testing_util::Tensor;

// Bytes (codes) or words (zero points, scales) of [rows, cols], exactly as large as needed.
template <class T>
struct Array {
  std::vector<T> data;
  MutableTensorView view;

  Array(DType dtype, std::vector<int64_t> shape) {
    int64_t size = 1;
    view.dtype = dtype;
    view.rank = static_cast<int>(shape.size());
    for (int d = view.rank - 1; d >= 0; --d) {
      view.shape[d] = shape[static_cast<size_t>(d)];
      view.strides[d] = size;
      size *= view.shape[d];
    }
    data.resize(static_cast<size_t>(size));
    view.data = data.data();
  }
};
using Codes = Array<uint8_t>;
using Scales = Array<float>;

uint32_t Encoded(DType format, float x) {
  return format == DType::kFloat8E5M2 ? E5M2::Encode(x, true) : E4M3FN::Encode(x, true);
}
float Largest(DType format) {
  return format == DType::kInt8 ? 127.0f : format == DType::kFloat8E5M2 ? 57344.0f : 448.0f;
}

TEST(QuantizeFp8, AgreesWithTheScalarCodecAtEveryLevel) {
  std::mt19937 random(1);
  for (DType dtype : kFloats) {
    for (int64_t n : kWidths) {
      constexpr int64_t kRows = 3;
      Tensor x(dtype, kRows, n, 3);
      x.Fill(&random, 0, 2);
      for (DType format : {DType::kFloat8E4M3FN, DType::kFloat8E5M2}) {
        for (Isa isa : Levels()) {
          Codes codes(format, {kRows, n});
          Scales scale(DType::kFloat32, {kRows});
          QuantizeFp8Args args;
          args.x_q = codes.view;
          args.scale_out = scale.view;
          args.x = x.view();
          args.granularity = Granularity::kRow;
          ASSERT_TRUE(QuantizeFp8(At(isa), args).ok());
          Tensor back(DType::kFloat32, kRows, n, 5);
          ASSERT_TRUE(DequantizeFp8(At(isa), {back.view(), codes.view, scale.view}).ok());
          ASSERT_TRUE(back.GapsUntouched());
          for (int64_t r = 0; r < kRows; ++r) {
            float amax = 0;
            for (int64_t c = 0; c < n; ++c) amax = std::fmax(amax, std::fabs(x.Get(r, c)));
            const float s = scale.data[static_cast<size_t>(r)];
            ASSERT_EQ(s, amax / Largest(format)) << Name(isa) << " " << n;
            for (int64_t c = 0; c < n; ++c) {
              const uint32_t code = codes.data[static_cast<size_t>(r * n + c)];
              ASSERT_EQ(code, Encoded(format, x.Get(r, c) * (1.0f / s))) << Name(isa) << " " << n;
              const float number =
                  format == DType::kFloat8E5M2 ? E5M2::Decode(code) : E4M3FN::Decode(code);
              ASSERT_EQ(back.Get(r, c), number * s);
            }
          }
        }
      }
    }
  }
}

TEST(QuantizeFp8, BlocksWithTailsOfBothKinds) {
  std::mt19937 random(2);
  constexpr int64_t kRows = 130, kCols = 1300;
  Tensor x(DType::kFloat32, kRows, kCols, 4);
  x.Fill(&random, 0, 1);
  for (Isa isa : Levels()) {
    for (bool square : {false, true}) {
      const int64_t height = square ? 128 : 1;
      Codes codes(DType::kFloat8E4M3FN, {kRows, kCols});
      Scales scale(DType::kFloat32, {(kRows + height - 1) / height, 11});
      QuantizeFp8Args args;
      args.x_q = codes.view;
      args.scale_out = scale.view;
      args.x = x.view();
      args.granularity = square ? Granularity::kBlock128x128 : Granularity::kBlock1x128;
      ASSERT_TRUE(QuantizeFp8(At(isa), args).ok());
      std::vector<float> amax(scale.data.size());
      const auto group = [&](int64_t r, int64_t c) {
        return static_cast<size_t>(r / height * 11 + c / 128);
      };
      for (int64_t r = 0; r < kRows; ++r) {
        for (int64_t c = 0; c < kCols; ++c) {
          float& most = amax[group(r, c)];
          most = std::fmax(most, std::fabs(x.Get(r, c)));
        }
      }
      for (int64_t r = 0; r < kRows; ++r) {
        for (int64_t c = 0; c < kCols; ++c) {
          const float s = scale.data[group(r, c)];
          ASSERT_EQ(s, amax[group(r, c)] / 448.0f);
          ASSERT_EQ(codes.data[static_cast<size_t>(r * kCols + c)],
                    Encoded(DType::kFloat8E4M3FN, x.Get(r, c) * (1.0f / s)));
        }
      }
    }
  }
}

TEST(QuantizeInt8, AsymmetricCoversTheRow) {
  std::mt19937 random(3);
  for (Isa isa : Levels()) {
    for (int64_t n : kWidths) {
      Tensor x(DType::kBFloat16, 2, n, 1);
      x.Fill(&random, 5, 3);
      Codes codes(DType::kInt8, {2, n});
      Scales scale(DType::kFloat32, {2});
      Array<int32_t> zero(DType::kInt32, {2});
      QuantizeInt8Args args;
      args.x_q = codes.view;
      args.scale_out = scale.view;
      args.zero_point_out = zero.view;
      args.x = x.view();
      args.symmetric = false;
      ASSERT_TRUE(QuantizeInt8(At(isa), args).ok());
      for (int64_t r = 0; r < 2; ++r) {
        const double s = scale.data[static_cast<size_t>(r)];
        for (int64_t c = 0; c < n; ++c) {
          const int code = static_cast<int8_t>(codes.data[static_cast<size_t>(r * n + c)]);
          ASSERT_NEAR((code - zero.data[static_cast<size_t>(r)]) * s, x.Get(r, c), 0.501 * s);
        }
      }
    }
  }
}

// y_q against y in double precision, in steps of the format.
void ExpectRounded(DType format, uint32_t code, double y, double slack, const std::string& where) {
  const double number = format == DType::kInt8         ? static_cast<int8_t>(code)
                        : format == DType::kFloat8E5M2 ? E5M2::Decode(code)
                                                       : E4M3FN::Decode(code);
  double step = 1;
  if (format != DType::kInt8) {
    const bool e5 = format == DType::kFloat8E5M2;
    const double least = e5 ? 0x1p-14 : 0x1p-6;
    step = std::exp2(std::floor(std::log2(std::fmax(std::fabs(y), least))) - (e5 ? 2 : 3));
  }
  ASSERT_LE(std::fabs(number - y), step / 2 + slack * std::fabs(y) + slack * step) << where;
}

TEST(Fused, RowsAgreeWithDoubleAtEveryLevel) {
  std::mt19937 random(4);
  for (DType dtype : kFloats) {
    for (int64_t n : kWidths) {
      if (n < 2) continue;
      Tensor x(dtype, 2, n, 3), residual(dtype, 2, n, 1), gates(dtype, 2, 2 * n, 2);
      Tensor weight(DType::kFloat32, 1, n);
      x.Fill(&random, 1, 2);
      residual.Fill(&random, 0, 1);
      gates.Fill(&random, 0.5f, 2);
      weight.Fill(&random, 1, 0.2f);
      for (DType format : {DType::kFloat8E4M3FN, DType::kFloat8E5M2, DType::kInt8}) {
        for (Isa isa : Levels()) {
          const std::string where = std::string(Name(isa)) + " " + Name(dtype) + " " +
                                    Name(format) + " " + std::to_string(n);
          for (bool layer : {false, true}) {
            Codes codes(format, {2, n});
            Scales scale(DType::kFloat32, {2});
            Tensor sum(dtype, 2, n, 4);
            FusedNormQuantizeArgs args;
            args.y_q = codes.view;
            args.scale_out = scale.view;
            args.new_residual = sum.view();
            args.x = x.view();
            args.residual = residual.view();
            args.weight = weight.row_view();
            args.subtract_mean = layer;
            ASSERT_TRUE(FusedNormQuantize(At(isa), args).ok());
            ASSERT_TRUE(sum.GapsUntouched());
            for (int64_t r = 0; r < 2; ++r) {
              double mean = 0, squares = 0;
              for (int64_t c = 0; c < n; ++c) mean += sum.Get(r, c) / static_cast<double>(n);
              if (!layer) mean = 0;
              for (int64_t c = 0; c < n; ++c) squares += std::pow(sum.Get(r, c) - mean, 2);
              const double rstd = 1 / std::sqrt(squares / static_cast<double>(n) + 1e-6f);
              for (int64_t c = 0; c < n; ++c) {
                const double y = (sum.Get(r, c) - mean) * rstd * weight.Get(0, c) /
                                 scale.data[static_cast<size_t>(r)];
                ExpectRounded(format, codes.data[static_cast<size_t>(r * n + c)], y, 1e-3, where);
              }
            }
          }
          Codes codes(format, {2, n});
          Scales scale(DType::kFloat32, {2});
          FusedActQuantizeArgs args;
          args.y_q = codes.view;
          args.scale_out = scale.view;
          args.x = gates.view();
          args.gated = true;
          ASSERT_TRUE(FusedActQuantize(At(isa), args).ok());
          for (int64_t r = 0; r < 2; ++r) {
            for (int64_t c = 0; c < n; ++c) {
              const double gate = gates.Get(r, c);
              const double y = gate / (1 + std::exp(-gate)) * gates.Get(r, n + c) /
                               scale.data[static_cast<size_t>(r)];
              ExpectRounded(format, codes.data[static_cast<size_t>(r * n + c)], y, 2e-3, where);
            }
          }
        }
      }
    }
  }
}

void ExpectRefused(const Status& status, StatusCode code, const std::string& part) {
  EXPECT_EQ(status.code(), code) << status.message();
  EXPECT_NE(status.message().find(part), std::string::npos) << status.message();
}

TEST(Quant, Refusals) {
  const LaunchContext ctx = At(Isa::kBaseline);
  const auto bad = StatusCode::kInvalidArgument;
  Tensor x(DType::kFloat32, 4, 200), y(DType::kFloat32, 4, 200);
  Codes codes(DType::kFloat8E4M3FN, {4, 200}), bytes(DType::kInt8, {4, 200});
  Scales rows(DType::kFloat32, {4}), blocks(DType::kFloat32, {4, 2});
  QuantizeFp8Args args;
  args.x_q = codes.view;
  args.scale_out = rows.view;
  args.x = x.view();
  ExpectRefused(QuantizeFp8(ctx, args), bad, "argument 'scale_out' must have shape []");
  args.granularity = Granularity::kBlock1x128;
  ExpectRefused(QuantizeFp8(ctx, args), bad, "argument 'scale_out' must have shape [4, 2]");
  args.granularity = Granularity::kRow;
  args.return_amax = true;
  ExpectRefused(QuantizeFp8(ctx, args), bad, "argument 'return_amax'");
  args.return_amax = false;
  args.x_q = bytes.view;
  ExpectRefused(QuantizeFp8(ctx, args), StatusCode::kTypeError, "float8_e4m3fn or float8_e5m2");
  args.x_q = codes.view;
  args.scale = rows.view;
  ExpectRefused(QuantizeFp8(ctx, args), bad, "argument 'scale_out' overlaps 'scale'");
  ExpectRefused(DequantizeFp8(ctx, {y.view(), bytes.view, rows.view}), StatusCode::kTypeError,
                "float8_e4m3fn or float8_e5m2");
  Scales odd(DType::kFloat32, {4, 3});
  ExpectRefused(DequantizeFp8(ctx, {y.view(), codes.view, odd.view}), bad,
                "argument 'scale' must have shape [4, 2], got [4, 3]");
  QuantizeInt8Args int8;
  int8.x_q = bytes.view;
  int8.scale_out = rows.view;
  Array<int32_t> zero(DType::kInt32, {4});
  int8.zero_point_out = zero.view;
  int8.x = x.view();
  int8.zero_point = zero.view;
  ExpectRefused(QuantizeInt8(ctx, int8), bad, "argument 'zero_point' goes with");
  FusedNormQuantizeArgs norm;
  norm.y_q = codes.view;
  norm.scale_out = rows.view;
  norm.x = x.view();
  norm.bias = x.row_view();
  ExpectRefused(FusedNormQuantize(ctx, norm), bad, "argument 'bias'");
  norm.bias = TensorView();
  norm.granularity = Granularity::kTensor;
  ExpectRefused(FusedNormQuantize(ctx, norm), bad, "argument 'scale' must be given");
  FusedActQuantizeArgs act;
  act.y_q = codes.view;
  act.scale_out = rows.view;
  act.x = x.view();
  act.gated = true;
  ExpectRefused(FusedActQuantize(ctx, act), bad, "argument 'y_q' must have shape [4, 100]");
  act.gated = false;
  act.kind = ActivationKind::kSwiglu;
  ExpectRefused(FusedActQuantize(ctx, act), bad, "argument 'kind'");
}

}  // namespace
}  // namespace kpt::cpu

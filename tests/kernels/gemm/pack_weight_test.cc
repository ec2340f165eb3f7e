// pack_weight: the documented layouts element by element, scales of special rows, refusals.
#include "kernels/gemm/pack_weight.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/kernels/gemm/packed_testing.h"

namespace kpt::cpu {
namespace {

using testing_util::At;
using testing_util::kFloats;
using testing_util::kPackFormats;
using testing_util::Pack;
using testing_util::Packed;
using testing_util::Row;
using testing_util::Tensor;
using testing_util::Weights;

constexpr float kInf = std::numeric_limits<float>::infinity();

TEST(PackWeight, LayoutIsAsDocumented) {
  for (PackFormat format : kPackFormats) {
    for (DType dtype : kFloats) {
      for (int64_t n : {1, 63, 64, 65, 130}) {
        for (int64_t k : {0, 1, 3, 16, 63, 66, 200}) {
          const Tensor weight = Weights(dtype, n, k);
          Packed packed(format, n, k, 5);
          ASSERT_TRUE(Pack(weight, format, &packed, nullptr, 3).ok());
          const std::string where = std::string(Name(format)) + " " + Name(dtype) + " " +
                                    std::to_string(n) + "x" + std::to_string(k);
          ASSERT_GE(packed.padded_k(), k) << where;
          for (int64_t row = 0; row < packed.padded_n(); ++row) {
            int32_t sum = 0;
            for (int64_t i = 0; i < packed.padded_k(); ++i) {
              const double got = packed.Stored(row, i);
              sum += format == PackFormat::kInt8 ? static_cast<int32_t>(got) : 0;
              if (row >= n || i >= k) {
                ASSERT_EQ(got, 0) << where;
                continue;
              }
              const double w = weight.Get(row, i);
              const double back = packed.Weight(row, i);
              if (format == PackFormat::kFp32) {
                ASSERT_EQ(back, w) << where;
              }
              if (format == PackFormat::kBf16) {
                ASSERT_NEAR(back, w, std::fabs(w) / 256) << where;
              }
              if (format == PackFormat::kInt8) {
                ASSERT_NEAR(back, w, packed.ScaleOf(row) * 0.50001) << where;
              }
              if (format == PackFormat::kFp8E4M3) {  // 3 bits, from 2^-6 on
                ASSERT_NEAR(back, w, std::max(std::fabs(w) / 15.9, packed.ScaleOf(row) * 0x1p-10))
                    << where;
              }
              if (format == PackFormat::kFp8E5M2) {  // 2 bits, from 2^-14 on
                ASSERT_NEAR(back, w, std::max(std::fabs(w) / 7.9, packed.ScaleOf(row) * 0x1p-17))
                    << where;
              }
              if (format == PackFormat::kInt4) {
                ASSERT_NEAR(back, w, packed.ScaleOf(row) * 0.50001) << where;
              }
            }
            if (format == PackFormat::kInt8) {
              ASSERT_EQ(packed.Sum(row), sum) << where;
            }
            if (row < n && !IsQuantized(format)) {
              ASSERT_EQ(packed.ScaleOf(row), 1) << where;
            }
          }
        }
      }
    }
  }
}

TEST(PackWeight, GroupsAndZeroPoints) {
  for (int64_t size : {-1, 32, 64, 128}) {
    for (bool zero_points : {false, true}) {
      for (int64_t k : {1, 31, 33, 128, 200}) {
        const Tensor weight = Weights(DType::kFloat32, 70, k);
        Packed packed(PackFormat::kInt4, 70, k, 5, {size, zero_points});
        ASSERT_TRUE(Pack(weight, PackFormat::kInt4, &packed, nullptr, 2).ok());
        for (int64_t row = 0; row < packed.padded_n(); ++row) {
          for (int64_t i = 0; i < packed.padded_k(); ++i) {
            if (row >= 70 || i >= k) {
              ASSERT_EQ(packed.Stored(row, i), 0);
              continue;
            }
            // A rounded zero point moves the range by up to half a step.
            const double steps = zero_points ? 1.00001 : 0.50001;
            ASSERT_NEAR(packed.Weight(row, i), weight.Get(row, i), packed.ScaleOf(row, i) * steps)
                << size << " " << k << " " << row << " " << i;
          }
        }
      }
    }
  }
}

// A 4-bit checkpoint: codes, scales and zero points come back as they were.
TEST(PackWeight, CodesOfACheckpointComeBack) {
  const int64_t n = 66, k = 96;
  Packed packed(PackFormat::kInt4, n, k, 0, {32, true});
  std::vector<float> scale(static_cast<size_t>(3 * n));
  std::vector<uint8_t> zeros(scale.size());
  for (size_t i = 0; i < scale.size(); ++i) {
    scale[i] = 0.01f + 0.001f * static_cast<float>(i % 37);
    zeros[i] = static_cast<uint8_t>(i % (kLargestZeroPoint + 1));
  }
  Tensor weight(DType::kFloat16, n, k);
  const auto code = [](int64_t r, int64_t c) { return static_cast<int>((7 * r + 3 * c) % 16); };
  for (int64_t r = 0; r < n; ++r) {
    for (int64_t c = 0; c < k; ++c) {
      const size_t at = static_cast<size_t>(c / 32 * n + r);
      weight.Set(r, c, static_cast<float>(code(r, c) - zeros[at]) * scale[at]);
    }
  }
  PackWeightArgs args;
  args.packed = packed.view();
  args.scale_out = packed.scale();
  args.weight = weight.view();
  args.format = PackFormat::kInt4;
  args.group_size = 32;
  args.scale = packed.scale();
  args.scale.data = scale.data();
  args.zero_point = args.scale;
  args.zero_point.dtype = DType::kUInt8;
  args.zero_point.data = zeros.data();
  ASSERT_TRUE(PackWeight(At(Isa::kBaseline), args).ok());
  for (int64_t r = 0; r < n; ++r) {
    for (int64_t c = 0; c < k; ++c) {
      const size_t at = static_cast<size_t>(c / 32 * n + r);
      ASSERT_EQ(packed.Stored(r, c) + 8, code(r, c));
      ASSERT_EQ(packed.ZeroOf(r, c), zeros[at]);
      ASSERT_EQ(packed.ScaleOf(r, c), scale[at]);
    }
  }
}

TEST(PackWeight, ScalesOfSpecialRows) {
  for (PackFormat format : {PackFormat::kInt8, PackFormat::kFp8E4M3}) {
    const bool is_int8 = format == PackFormat::kInt8;
    Tensor weight(DType::kFloat32, 4, 3);
    const float rows[4][3] = {{0, 0, -0.0f}, {1, -2, 0.5f}, {1, std::nanf(""), 2}, {1, kInf, 2}};
    for (int64_t r = 0; r < 4; ++r) {
      for (int64_t c = 0; c < 3; ++c) weight.Set(r, c, rows[r][c]);
    }
    Packed packed(format, 4, 3);
    ASSERT_TRUE(Pack(weight, format, &packed).ok());
    EXPECT_EQ(packed.ScaleOf(0), 1);
    EXPECT_EQ(packed.ScaleOf(1), 2.0f / (is_int8 ? 127 : 448));
    EXPECT_EQ(packed.Stored(1, 1), is_int8 ? -127 : -448);
    EXPECT_EQ(std::isnan(packed.ScaleOf(2)), is_int8);
    EXPECT_EQ(std::isnan(packed.Stored(2, 1)), !is_int8);
    EXPECT_TRUE(std::isnan(packed.ScaleOf(3)));
    // A given scale is used as it is, and saturates.
    const std::vector<float> scale = {1, 0.001f, 1, 1};
    ASSERT_TRUE(Pack(weight, format, &packed, &scale).ok());
    EXPECT_EQ(packed.ScaleOf(1), 0.001f);
    EXPECT_EQ(packed.Stored(1, 0), is_int8 ? 127 : 448);
    EXPECT_EQ(packed.Stored(1, 1), is_int8 ? -127 : -448);
    EXPECT_EQ(packed.Stored(3, 1), is_int8 ? 127 : 448);
  }
}

void ExpectRefused(const Status& status, StatusCode code, const std::string& part) {
  EXPECT_EQ(status.code(), code) << status.message();
  EXPECT_NE(status.message().find(part), std::string::npos) << status.message();
}

constexpr auto kBad = StatusCode::kInvalidArgument;

TEST(PackWeight, Refusals) {
  Tensor weight = Weights(DType::kFloat32, 6, 8);
  Packed packed(PackFormat::kInt8, 6, 8), other(PackFormat::kFp8E4M3, 6, 8);
  const std::vector<float> ones(6, 1.0f), five(5, 1.0f);
  PackWeightArgs good;
  good.packed = packed.view();
  good.scale_out = packed.scale();
  good.weight = weight.view();
  good.format = PackFormat::kInt8;
  const auto refused = [&](const PackWeightArgs& a, StatusCode code, const char* part) {
    ExpectRefused(PackWeight(At(Isa::kBaseline), a), code, part);
  };
  PackWeightArgs a = good;
  a.weight.rank = 1;
  refused(a, kBad, "pack_weight: argument 'weight' must have at least 2 dimension");
  a = good;
  a.weight.strides[1] = 2;
  refused(a, kBad, "dense last dimension");
  a = good;
  a.weight.dtype = DType::kInt8;
  refused(a, StatusCode::kTypeError, "argument 'weight' must have dtype");
  a = good;
  a.group_size = 32;
  refused(a, kBad, "argument 'group_size' must be -1");
  a = good;
  a.symmetric = false;
  refused(a, kBad, "argument 'symmetric' must be True for format 'int8'");
  Packed int4(PackFormat::kInt4, 6, 8);
  PackWeightArgs four = good;
  four.packed = int4.view();
  four.scale_out = int4.scale();
  four.format = PackFormat::kInt4;
  a = four;
  a.group_size = 16;
  refused(a, kBad, "argument 'group_size' must be -1 (one scale per output), 32, 64 or 128");
  a = four;
  a.scale = Row(ones);
  refused(a, kBad, "argument 'scale' must have shape [1, 6]");
  a = four;
  a.zero_point = int4.scale();
  refused(a, kBad, "argument 'zero_point' must be None without 'scale'");
  const std::vector<uint8_t> zeros(6, 17);
  Packed with_zeros(PackFormat::kInt4, 6, 8, 0, {-1, true});
  a.packed = with_zeros.view();
  a.scale = int4.scale();
  a.scale.data = ones.data();
  a.zero_point.dtype = DType::kUInt8;
  a.zero_point.data = zeros.data();
  refused(a, kBad, "argument 'zero_point' must be at most 16, got 17");
  a = good;
  a.scale = Row(five);
  refused(a, kBad, "argument 'scale' must have shape [6]");
  a = good;
  a.format = PackFormat::kBf16;
  a.scale = Row(ones);
  refused(a, kBad, "argument 'scale' must be None for format 'bf16'");
  a = good;
  a.packed = other.view();
  refused(a, StatusCode::kTypeError, "argument 'packed' must have dtype int8, got uint8");
  a = good;
  a.packed.shape[1] -= 256;
  refused(a, kBad, "argument 'packed' must have shape [1, 4352]");
  a = good;
  a.scale_out.shape[0] = 5;
  refused(a, kBad, "argument 'scale_out' must have shape [6]");
}

}  // namespace
}  // namespace kpt::cpu

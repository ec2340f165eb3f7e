// packed_linear: every 8-bit code, every instruction set against double precision, what a row's
// bits may depend on, refusals.
#include "kernels/gemm/packed_linear.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/gemm/pack_weight.h"
#include "tests/kernels/gemm/gemm_testing.h"
#include "tests/kernels/gemm/packed_testing.h"

namespace kpt::cpu {
namespace {

using testing_util::At;
using testing_util::ExactLinear;
using testing_util::ExactOutput;
using testing_util::Groups;
using testing_util::HasInt8Compute;
using testing_util::kFloats;
using testing_util::kLinearActivations;
using testing_util::kPackFormats;
using testing_util::Levels;
using testing_util::Pack;
using testing_util::Packed;
using testing_util::Tensor;
using testing_util::Unit;
using testing_util::Weights;

constexpr float kInf = std::numeric_limits<float>::infinity();

// A call with everything it needs.
struct Problem {
  Problem(PackFormat pack_format, DType type, int64_t rows, int64_t outputs, int64_t depth,
          ActivationKind activation, Groups groups = {})
      : format(pack_format),
        dtype(type),
        m(rows),
        n(outputs),
        k(depth),
        kind(activation),
        columns(IsGated(activation) ? 2 * outputs : outputs),
        x(type, rows, depth, 3),
        bias(type, 1, columns),
        packed(pack_format, columns, depth, 0, groups) {
    std::mt19937 random(static_cast<unsigned>(1000 * rows + 10 * outputs + depth));
    x.Fill(&random, 0.3f, 1);
    bias.Fill(&random, 0, 1);
    EXPECT_TRUE(Pack(Weights(DType::kFloat32, columns, depth), format, &packed).ok());
  }
  PackedLinearArgs Args(Tensor* y, PackedCompute compute = PackedCompute::kWeightOnly) {
    PackedLinearArgs args;
    args.out = y->view();
    args.x = x.view();
    args.packed = packed.view();
    args.scale = packed.scale();
    args.out_features = columns;
    args.format = format;
    args.bias = bias.row_view();
    args.activation = kind;
    args.group_size = packed.groups().size;
    args.compute = compute;
    return args;
  }
  Tensor Output() const { return Tensor(dtype, m, n, 7); }

  PackFormat format;
  DType dtype;
  int64_t m, n, k;
  ActivationKind kind;
  int64_t columns;
  Tensor x, bias;
  Packed packed;
};

// What int8 compute makes of a row of x (packed_linear.h).
void Quantize(Tensor* x, int64_t r) {
  float low = 0, high = 0;
  for (int64_t k = 0; k < x->cols(); ++k) {
    low = std::min(low, x->Get(r, k));
    high = std::max(high, x->Get(r, k));
  }
  const float s = high / 255 - low / 255;
  const float z = s > 0 ? std::nearbyint(-low / s) : 0;
  const float inverse = s > 0 ? 1 / s : 0;
  for (int64_t k = 0; k < x->cols(); ++k) {
    const float u = std::nearbyint(x->Get(r, k) * inverse) + z;
    x->Set(r, k, s * (std::min(std::max(u, 0.0f), 255.0f) - z));
  }
}

void Check(Isa isa, Problem* p, PackedCompute compute = PackedCompute::kWeightOnly, int threads = 1,
           const char* force = nullptr) {
  Tensor y = p->Output();
  LaunchRecord record;
  LaunchContext ctx = At(isa, &record);
  ctx.num_threads = threads;
  ctx.force_variant = force;
  const Status status = PackedLinear(ctx, p->Args(&y, compute));
  ASSERT_TRUE(status.ok()) << status.message();
  const std::string where = std::string(record.variant) + " " + Name(p->format) + " " +
                            Name(p->dtype) + " " + std::to_string(p->m) + "x" +
                            std::to_string(p->n) + "x" + std::to_string(p->k);
  EXPECT_TRUE(y.GapsUntouched()) << where;
  Tensor seen(DType::kFloat32, p->m, p->k);
  for (int64_t m = 0; m < p->m; ++m) {
    for (int64_t k = 0; k < p->k; ++k) seen.Set(m, k, p->x.Get(m, k));
    if (compute == PackedCompute::kInt8) Quantize(&seen, m);
  }
  const auto weight = [&](int64_t row, int64_t k) { return p->packed.Weight(row, k); };
  for (int64_t m = 0; m < p->m; ++m) {
    for (int64_t n = 0; n < p->n; ++n) {
      const ExactOutput want = ExactLinear(seen, weight, &p->bias, p->kind, m, n, p->n);
      const double fast = testing_util::FastSlack(p->dtype, p->kind, want.value);
      const double allowed =
          1.05 * Unit(p->dtype) * std::fabs(want.value) + want.slack + 4 * fast + 0x1p-24;
      ASSERT_NEAR(y.Get(m, n), want.value, allowed) << where << " row " << m << " output " << n;
    }
  }
}

TEST(PackedLinear, AgreesWithDoubleAtEveryLevel) {
  int turn = 0;
  for (PackFormat format : kPackFormats) {
    for (DType dtype : kFloats) {
      for (int64_t n : {1, 17, 65, 130}) {
        for (int64_t k : {0, 1, 3, 15, 31, 64, 130, 515}) {
          for (int64_t m : {1, 2, 4, 5, 9, 40}) {
            Problem p(format, dtype, m, n, k, kLinearActivations[++turn % 7]);
            for (Isa isa : Levels()) {
              Check(isa, &p);
              if (HasInt8Compute(format)) Check(isa, &p, PackedCompute::kInt8);
            }
          }
        }
      }
    }
  }
}

TEST(PackedLinear, LongKAndManyRows) {
  for (PackFormat format : kPackFormats) {
    for (DType dtype : {DType::kFloat32, DType::kBFloat16}) {
      for (int64_t k : {4097, 8200}) {
        Problem p(format, dtype, 45, 20, k, ActivationKind::kGelu);
        Problem tall(format, dtype, 500, 70, 33, ActivationKind::kGeglu);
        for (Isa isa : Levels()) {
          Check(isa, &p, PackedCompute::kWeightOnly, 2);
          Check(isa, &tall, PackedCompute::kWeightOnly, 2);
          if (!HasInt8Compute(format)) continue;
          Check(isa, &p, PackedCompute::kInt8, 2);
          Check(isa, &tall, PackedCompute::kInt8, 2);
        }
      }
    }
  }
}

TEST(PackedLinear, GroupsAndZeroPoints) {
  int turn = 0;
  for (int64_t size : {-1, 32, 64, 128}) {
    for (bool zero_points : {false, true}) {
      for (DType dtype : kFloats) {
        for (int64_t k : {33, 200}) {
          for (int64_t m : {1, 5, 16, 130}) {
            Problem p(PackFormat::kInt4, dtype, m, m > 100 ? 9 : 70, k,
                      kLinearActivations[++turn % 7], {size, zero_points});
            for (Isa isa : Levels()) {
              Check(isa, &p, PackedCompute::kWeightOnly, 2);
              Check(isa, &p, PackedCompute::kInt8, 2);
            }
          }
        }
      }
    }
  }
}

TEST(PackedLinear, EveryVariantCanBeForced) {
  for (const VariantInfo& variant : PackedLinearVariants()) {
    if (variant.isa > DetectedIsa()) continue;
    int served = 0;
    for (PackFormat format : kPackFormats) {
      for (PackedCompute compute : {PackedCompute::kWeightOnly, PackedCompute::kInt8}) {
        if (compute == PackedCompute::kInt8 && !HasInt8Compute(format)) continue;
        Problem p(format, DType::kBFloat16, 9, 70, 90, ActivationKind::kSilu);
        Tensor y = p.Output();
        LaunchContext ctx = At(variant.isa);
        ctx.force_variant = variant.name;
        if (PackedLinear(ctx, p.Args(&y, compute)).code() == StatusCode::kUnimplemented) continue;
        ++served;
        Check(variant.isa, &p, compute, 2, variant.name);
      }
    }
    EXPECT_GT(served, 0) << variant.name;
  }
}

// Every code of the 8-bit formats, alone and among others, comes out exactly.
TEST(PackedLinear, EveryCodeIsExact) {
  for (PackFormat format : {PackFormat::kInt8, PackFormat::kFp8E4M3, PackFormat::kFp8E5M2}) {
    Tensor weight(DType::kFloat32, 256, 1);
    for (int64_t i = 0; i < 256; ++i) {
      const uint32_t code = static_cast<uint32_t>(i);
      float value = E4M3FN::Decode(code);
      if (format == PackFormat::kInt8) value = static_cast<float>(std::max<int64_t>(i - 128, -127));
      // Packing saturates: infinity is not among the codes that it makes.
      if (format == PackFormat::kFp8E5M2) value = (i & 127) == 124 ? 0 : E5M2::Decode(code);
      weight.Set(i, 0, value);
    }
    const std::vector<float> ones(256, 1.0f);
    Packed packed(format, 256, 1);
    ASSERT_TRUE(Pack(weight, format, &packed, &ones).ok());
    for (Isa isa : Levels()) {
      for (DType dtype : kFloats) {
        for (int64_t m : {1, 3, 8}) {
          Tensor x(dtype, m, 1), y(dtype, m, 256);
          for (int64_t r = 0; r < m; ++r) x.Set(r, 0, 1);
          PackedLinearArgs args;
          args.out = y.view();
          args.x = x.view();
          args.packed = packed.view();
          args.scale = packed.scale();
          args.out_features = 256;
          args.format = format;
          ASSERT_TRUE(PackedLinear(At(isa), args).ok());
          for (int64_t code = 0; code < 256; ++code) {
            const float want = weight.Get(code, 0);
            if (std::isnan(want)) {
              EXPECT_TRUE(std::isnan(y.Get(m - 1, code))) << Name(isa) << " " << code;
            } else {
              EXPECT_EQ(y.Get(m - 1, code), want) << Name(isa) << " " << Name(dtype) << " " << code;
            }
          }
        }
      }
    }
  }
}

TEST(PackedLinear, BitsDependOnTheRowAlone) {
  for (PackFormat format : kPackFormats) {
    for (DType dtype : kFloats) {
      for (PackedCompute compute : {PackedCompute::kWeightOnly, PackedCompute::kInt8}) {
        if (compute == PackedCompute::kInt8 && !HasInt8Compute(format)) continue;
        for (int64_t m : {3, 47}) {
          Problem p(format, dtype, m, 130, 300, ActivationKind::kNone);
          for (Isa isa : Levels()) {
            Tensor first = p.Output();
            ASSERT_TRUE(PackedLinear(At(isa), p.Args(&first, compute)).ok());
            for (int threads : {1, 2, 3, 7}) {
              Tensor y = p.Output();
              LaunchContext ctx = At(isa);
              ctx.num_threads = threads;
              ASSERT_TRUE(PackedLinear(ctx, p.Args(&y, compute)).ok());
              EXPECT_EQ(y.bytes(), first.bytes()) << Name(isa) << " " << threads;
            }
            Problem other = p;
            for (int64_t r = 1; r < m; ++r) other.x.Set(r, 7, r % 2 != 0 ? kInf : std::nanf(""));
            Tensor y = p.Output();
            ASSERT_TRUE(PackedLinear(At(isa), other.Args(&y, compute)).ok());
            for (int64_t n = 0; n < p.n; ++n) {
              EXPECT_EQ(y.Get(0, n), first.Get(0, n));
              EXPECT_FALSE(std::isfinite(y.Get(1, n))) << Name(format);
              EXPECT_TRUE(std::isnan(y.Get(2, n)));
            }
          }
        }
      }
    }
  }
}

// Rows that have no scale: zeros, and numbers whose scale would be subnormal.
TEST(PackedLinear, Int8ComputeOfTinyRows) {
  for (Isa isa : Levels()) {
    for (DType dtype : kFloats) {
      Problem p(PackFormat::kInt8, dtype, 3, 30, 20, ActivationKind::kNone);
      for (int64_t k = 0; k < p.k; ++k) {
        p.x.Set(0, k, 0);
        p.x.Set(1, k, dtype == DType::kFloat16 ? 0 : 0x1p-126f);
      }
      Tensor y = p.Output();
      ASSERT_TRUE(PackedLinear(At(isa), p.Args(&y, PackedCompute::kInt8)).ok());
      for (int64_t n = 0; n < p.n; ++n) {
        EXPECT_EQ(y.Get(0, n), p.bias.Get(0, n));
        EXPECT_EQ(y.Get(1, n), p.bias.Get(0, n));
        EXPECT_NE(y.Get(2, n), p.bias.Get(0, n));
      }
    }
  }
}

// Panels with gaps or at any address, and rows that no single stride walks, are copied first.
TEST(PackedLinear, LayoutsGiveTheSame) {
  for (PackFormat format : kPackFormats) {
    Problem p(format, DType::kBFloat16, 12, 130, 70, ActivationKind::kSwiglu);
    Packed apart(format, p.columns, p.k, 1);
    ASSERT_TRUE(Pack(Weights(DType::kFloat32, p.columns, p.k), format, &apart).ok());
    for (Isa isa : Levels()) {
      Tensor plain = p.Output(), y = p.Output();
      ASSERT_TRUE(PackedLinear(At(isa), p.Args(&plain)).ok());
      PackedLinearArgs args = p.Args(&y);
      args.packed = apart.view();
      // [3, 4, K] with its leading dimensions swapped.
      args.x.rank = args.out.rank = 3;
      args.x.shape[0] = args.out.shape[0] = 3;
      args.x.shape[1] = args.out.shape[1] = 4;
      args.x.shape[2] = p.k;
      args.out.shape[2] = p.n;
      args.x.strides[0] = p.x.view().stride(0);
      args.x.strides[1] = 3 * args.x.strides[0];
      args.out.strides[1] = y.view().stride(0);
      args.out.strides[0] = 4 * args.out.strides[1];
      args.x.strides[2] = args.out.strides[2] = 1;
      ASSERT_TRUE(PackedLinear(At(isa), args).ok());
      for (int64_t a = 0; a < 3; ++a) {
        for (int64_t b = 0; b < 4; ++b) {
          for (int64_t n = 0; n < p.n; ++n) {
            ASSERT_EQ(y.Get(4 * a + b, n), plain.Get(a + 3 * b, n)) << Name(isa);
          }
        }
      }
    }
  }
}

TEST(PackedLinear, EmptyIsFine) {
  for (PackFormat format : kPackFormats) {
    Problem none(format, DType::kFloat32, 0, 5, 5, ActivationKind::kNone);
    Problem thin(format, DType::kFloat32, 5, 0, 5, ActivationKind::kGeglu);
    Tensor a = none.Output(), b = thin.Output();
    EXPECT_TRUE(PackedLinear(At(Isa::kBaseline), none.Args(&a)).ok());
    EXPECT_TRUE(PackedLinear(At(Isa::kBaseline), thin.Args(&b)).ok());
  }
}

void ExpectRefused(const Status& status, StatusCode code, const std::string& part) {
  EXPECT_EQ(status.code(), code) << status.message();
  EXPECT_NE(status.message().find(part), std::string::npos) << status.message();
}

constexpr auto kBad = StatusCode::kInvalidArgument;

TEST(PackedLinear, Refusals) {
  Problem p(PackFormat::kInt8, DType::kFloat32, 4, 6, 8, ActivationKind::kNone);
  Tensor y = p.Output(), small(DType::kFloat32, 4, 5);
  const PackedLinearArgs good = p.Args(&y);
  const auto refused = [&](const PackedLinearArgs& a, StatusCode code, const char* part) {
    ExpectRefused(PackedLinear(At(Isa::kBaseline), a), code, part);
  };
  PackedLinearArgs a = good;
  a.out_features = 5;
  refused(a, kBad, "argument 'scale' must have shape [5], got [6]");
  a = good;
  a.out_features = -1;
  refused(a, kBad, "argument 'out_features' must not be negative");
  a = good;
  a.out_features = 5;
  a.activation = ActivationKind::kSwiglu;
  refused(a, kBad, "argument 'out_features' must be even");
  a = good;
  a.activation = ActivationKind::kSigmoid;
  refused(a, kBad, "argument 'activation' must be one of");
  a = good;
  a.format = PackFormat::kFp8E4M3;
  refused(a, StatusCode::kTypeError, "packed_linear: argument 'packed' must have dtype uint8");
  a = good;
  a.format = PackFormat::kFp8E4M3;
  a.compute = PackedCompute::kInt8;
  refused(a, kBad, "argument 'format' must be 'int8' or 'int4' for compute 'int8', got 'fp8_e4m3'");
  a = good;
  a.compute = PackedCompute::kInt8;
  a.x.shape[1] = kMaxInt8ComputeK + 1;
  refused(a, kBad, "argument 'x' must have at most 32768 features");
  a = good;
  a.packed.shape[0] = 2;
  refused(a, kBad, "argument 'packed' must have shape [1, 4352]");
  a = good;
  a.group_size = 0;
  refused(a, kBad, "argument 'group_size' must be -1");
  a = good;
  a.bias.shape[0] = 5;
  refused(a, kBad, "argument 'bias' must have shape [6], got [5]");
  a = good;
  a.bias.dtype = DType::kFloat16;
  refused(a, StatusCode::kTypeError, "argument 'bias' must have dtype float32, got float16");
  a = good;
  a.x.dtype = DType::kInt64;
  refused(a, StatusCode::kTypeError, "argument 'x' must have dtype");
  a = good;
  a.out = small.view();
  refused(a, kBad, "argument 'out' must have the leading dimensions of 'x'");
  a = good;
  a.out.strides[0] = 0;
  refused(a, kBad, "argument 'out' must not overlap itself");
  a = good;
  a.out.data = a.scale.data;
  refused(a, kBad, "argument 'out' overlaps 'scale' in memory");
}

}  // namespace
}  // namespace kpt::cpu

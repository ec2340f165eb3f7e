// The AMX variants of every operator that has one, on emulated tiles: right results over tails of
// every kind. Their speed shows only on a processor that has AMX.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/attention/attention_forward.h"
#include "kernels/gemm/fp8_gemm.h"
#include "kernels/gemm/int8_gemm.h"
#include "kernels/gemm/linear_act.h"
#include "kernels/gemm/linear_act_backward.h"
#include "kernels/gemm/pack_weight.h"
#include "kernels/gemm/packed_linear.h"
#include "tests/kernels/base/row_op_testing.h"
#include "tests/kernels/gemm/byte_gemm_testing.h"

namespace kpt::cpu {
namespace {

using testing_util::At;
using testing_util::ByteMatrix;
using testing_util::Scales;
using testing_util::Tensor;

constexpr DType kBf16 = DType::kBFloat16;

class AmxKernels : public ::testing::Test {
 protected:
  void SetUp() override {
    if (DetectedIsa() < Isa::kAvx512Bf16) {
      GTEST_SKIP() << "the rest of the AMX kernels needs AVX512-BF16";
    }
  }
};

Tensor Random(DType dtype, int64_t rows, int64_t cols, float deviation, int64_t gap = 0) {
  std::mt19937 random(static_cast<unsigned>(rows * 1000 + cols));
  Tensor t(dtype, rows, cols, gap);
  t.Fill(&random, 0.0f, deviation);
  return t;
}

// Every element of `got` within `relative` of its size, plus `absolute`, of `want`.
void ExpectNear(const Tensor& got, const Tensor& want, double relative, double absolute,
                const std::string& what) {
  for (int64_t r = 0; r < got.rows(); ++r) {
    for (int64_t c = 0; c < got.cols(); ++c) {
      const double g = static_cast<double>(got.Get(r, c));
      const double w = static_cast<double>(want.Get(r, c));
      ASSERT_LE(std::fabs(g - w), relative * std::fabs(w) + absolute)
          << what << " at " << r << ", " << c << ": " << g << ", expected " << w;
    }
  }
  EXPECT_TRUE(got.GapsUntouched()) << what;
}

struct Size {
  int64_t m, n, k;
};

// Around the tile sizes, the row blocks and the panels of 64 outputs.
constexpr Size kSizes[] = {{1, 1, 1},     {1, 64, 64},   {2, 17, 33},   {15, 64, 31},
                           {16, 65, 64},  {17, 130, 96}, {33, 48, 130}, {48, 64, 515},
                           {70, 200, 64}, {129, 96, 40}, {260, 72, 96}, {5, 300, 1100}};

std::string Text(const Size& s) {
  return std::to_string(s.m) + "x" + std::to_string(s.n) + "x" + std::to_string(s.k);
}

using Runner = std::function<Status(const LaunchContext&, Tensor*)>;

// Runs at the AMX level, which must choose `variant`, and at the portable level; compares.
void Compare(const Runner& run, const std::string& variant, int64_t rows, int64_t cols,
             double relative, double absolute, const std::string& what) {
  Tensor got(kBf16, rows, cols, 3), want(kBf16, rows, cols);
  LaunchRecord record;
  const Status amx = run(At(Isa::kAmx, &record), &got);
  ASSERT_TRUE(amx.ok()) << what << ": " << amx.message();
  EXPECT_EQ(record.variant, variant) << what;
  const Status portable = run(At(Isa::kBaseline), &want);
  ASSERT_TRUE(portable.ok()) << what << ": " << portable.message();
  ExpectNear(got, want, relative, absolute, what);
}

TEST_F(AmxKernels, LinearAct) {
  for (const Size& s : kSizes) {
    for (const ActivationKind kind :
         {ActivationKind::kNone, ActivationKind::kGelu, ActivationKind::kSwiglu}) {
      const int64_t rows = IsGated(kind) ? 2 * s.n : s.n;
      Tensor x = Random(kBf16, s.m, s.k, 1.0f, 5);
      Tensor weight = Random(kBf16, rows, s.k, 1.0f / std::sqrt(static_cast<float>(s.k)), 1);
      Tensor bias = Random(kBf16, 1, rows, 1.0f);
      const Runner run = [&](const LaunchContext& ctx, Tensor* out) {
        LinearActArgs args;
        args.out = out->view();
        args.x = x.view();
        args.weight = weight.view();
        args.bias = bias.row_view();
        args.activation = kind;
        return LinearAct(ctx, args);
      };
      Compare(run, "amx_bf16", s.m, s.n, 0x1p-7, 1e-5, Text(s));
    }
  }
}

TEST_F(AmxKernels, LinearActBackward) {
  for (const Size& s : kSizes) {
    for (const ActivationKind kind : {ActivationKind::kNone, ActivationKind::kSwiglu}) {
      const int64_t rows = IsGated(kind) ? 2 * s.n : s.n;
      Tensor grad_out = Random(kBf16, s.m, s.n, 1.0f, 2);
      Tensor x = Random(kBf16, s.m, s.k, 1.0f, 5);
      Tensor weight = Random(kBf16, rows, s.k, 1.0f / std::sqrt(static_cast<float>(s.k)), 1);
      LinearActBackwardArgs args;
      args.grad_out = grad_out.view();
      args.x = x.view();
      args.weight = weight.view();
      args.activation = kind;
      // Sums before the activation differ in their last bits, and gradients of them by a rounding.
      const double absolute = IsGated(kind) ? 0.1 : 1e-3;
      const Runner grad_x = [&](const LaunchContext& ctx, Tensor* out) {
        LinearActBackwardArgs wanted = args;
        wanted.grad_x = out->view();
        return LinearActBackward(ctx, wanted);
      };
      Compare(grad_x, "amx_bf16", s.m, s.k, 0x1p-7, absolute, Text(s));
      const Runner grad_weight = [&](const LaunchContext& ctx, Tensor* out) {
        LinearActBackwardArgs wanted = args;
        wanted.grad_weight = out->view();
        return LinearActBackward(ctx, wanted);
      };
      Compare(grad_weight, "amx_bf16", rows, s.k, 0x1p-7, absolute, Text(s));
    }
  }
}

struct Packed {
  std::vector<char> data;
  std::vector<float> scale;
  MutableTensorView view, scale_view;

  Packed(Tensor weight, PackFormat format, int64_t n, int64_t k) : scale(static_cast<size_t>(n)) {
    view.dtype = PackedDType(format);
    view.rank = 2;
    view.shape[0] = PackedPanels(n);
    view.shape[1] = view.strides[0] = PackedPanelElements(format, k);
    view.strides[1] = 1;
    data.resize(static_cast<size_t>(view.size() * ItemSize(view.dtype)));
    view.data = data.data();
    scale_view.dtype = DType::kFloat32;
    scale_view.rank = 1;
    scale_view.shape[0] = n;
    scale_view.strides[0] = 1;
    scale_view.data = scale.data();
    PackWeightArgs args;
    args.packed = view;
    args.scale_out = scale_view;
    args.weight = weight.view();
    args.format = format;
    const Status status = PackWeight(At(Isa::kBaseline), args);
    EXPECT_TRUE(status.ok()) << status.message();
  }
};

void CheckPacked(PackFormat format, PackedCompute compute, const std::string& variant) {
  for (const Size& s : kSizes) {
    for (const ActivationKind kind : {ActivationKind::kGelu, ActivationKind::kSwiglu}) {
      if (IsGated(kind) && s.n % 2 != 0) continue;
      const int64_t cols = IsGated(kind) ? s.n / 2 : s.n;
      Tensor x = Random(kBf16, s.m, s.k, 1.0f, 3);
      Tensor bias = Random(kBf16, 1, s.n, 1.0f);
      const Packed packed(Random(kBf16, s.n, s.k, 1.0f / std::sqrt(static_cast<float>(s.k))),
                          format, s.n, s.k);
      const Runner run = [&](const LaunchContext& ctx, Tensor* out) {
        PackedLinearArgs args;
        args.out = out->view();
        args.x = x.view();
        args.packed = packed.view;
        args.scale = packed.scale_view;
        args.out_features = s.n;
        args.format = format;
        args.bias = bias.row_view();
        args.activation = kind;
        args.compute = compute;
        return PackedLinear(ctx, args);
      };
      Compare(run, variant, s.m, cols, 0x1p-7, 1e-5, std::string(Name(format)) + " " + Text(s));
    }
  }
}

TEST_F(AmxKernels, PackedBf16) {
  CheckPacked(PackFormat::kBf16, PackedCompute::kWeightOnly, "amx_bf16_panels");
}
TEST_F(AmxKernels, PackedInt8) {
  CheckPacked(PackFormat::kInt8, PackedCompute::kWeightOnly, "amx_bf16_decode");
}
TEST_F(AmxKernels, PackedFp8) {
  CheckPacked(PackFormat::kFp8E4M3, PackedCompute::kWeightOnly, "amx_bf16_decode");
  CheckPacked(PackFormat::kFp8E5M2, PackedCompute::kWeightOnly, "amx_bf16_decode");
}
TEST_F(AmxKernels, PackedInt8Compute) {
  CheckPacked(PackFormat::kInt8, PackedCompute::kInt8, "amx_int8");
}

// Few rows of bytes take no tiles. A single block of K is no change of scales.
bool TakesRows(const Size& s, bool blocks) {
  return s.m <= 4 || (s.m <= 16 && s.m <= s.k / 64 && !(blocks && s.k > 128));
}

TEST_F(AmxKernels, Fp8Gemm) {
  for (const Size& s : kSizes) {
    for (const int rank : {0, 1, 2}) {
      const ActivationKind kind = rank == 1 ? ActivationKind::kSwiglu : ActivationKind::kGelu;
      const int64_t rows = IsGated(kind) ? 2 * s.n : s.n;
      std::mt19937 random(static_cast<unsigned>(s.m + s.k));
      ByteMatrix a(DType::kFloat8E4M3FN, s.m, s.k, 3), b(DType::kFloat8E5M2, rows, s.k, 1);
      a.Fill(&random);
      b.Fill(&random);
      const Scales scale_a(rank, s.m, s.k, 1, &random), scale_b(rank, rows, s.k, 128, &random);
      Tensor bias = Random(kBf16, 1, rows, 1.0f);
      const Runner run = [&](const LaunchContext& ctx, Tensor* out) {
        return Fp8Gemm(ctx, {out->view(), a.view(), b.view(), scale_a.view(), scale_b.view(),
                             bias.row_view(), kind});
      };
      const double size = 0.02 * std::sqrt(static_cast<double>(s.k));
      Compare(run, TakesRows(s, rank == 2) ? "avx512_bf16_rows" : "amx_bf16_tiles", s.m, s.n,
              0x1p-6, size, Text(s));
    }
  }
}

TEST_F(AmxKernels, Int8Gemm) {
  for (const Size& s : kSizes) {
    for (const bool asymmetric : {false, true}) {
      std::mt19937 random(static_cast<unsigned>(s.m + s.k));
      ByteMatrix a(DType::kInt8, s.m, s.k, 3), b(DType::kInt8, s.n, s.k, 1);
      a.Fill(&random);
      b.Fill(&random);
      const Scales scale_a(1, s.m, s.k, 1, &random), scale_b(1, s.n, s.k, 1, &random);
      std::vector<int32_t> zeros(static_cast<size_t>(s.m), 37);
      TensorView zero_point;
      zero_point.data = zeros.data();
      zero_point.dtype = DType::kInt32;
      zero_point.rank = asymmetric ? 1 : -1;
      zero_point.shape[0] = s.m;
      zero_point.strides[0] = 1;
      const Runner run = [&](const LaunchContext& ctx, Tensor* out) {
        return Int8Gemm(
            ctx, {out->view(), a.view(), b.view(), scale_a.view(), scale_b.view(), {}, zero_point});
      };
      Compare(run, TakesRows(s, false) ? "avx512_vnni_rows" : "amx_int8_tiles", s.m, s.n, 0x1p-7,
              1e-5, Text(s));
    }
  }
}

// [batch, heads, seqlen, dim] over the rows of a matrix in that order.
MutableTensorView Heads(Tensor* t, int64_t batch, int64_t heads, int64_t seqlen) {
  MutableTensorView v = t->view();
  const int64_t row = v.strides[0];
  v.rank = 4;
  v.shape[3] = v.shape[1];
  v.strides[3] = 1;
  v.shape[2] = seqlen;
  v.strides[2] = row;
  v.shape[1] = heads;
  v.strides[1] = row * seqlen;
  v.shape[0] = batch;
  v.strides[0] = row * seqlen * heads;
  return v;
}

struct AttentionSize {
  int64_t seqlen_q, seqlen_k, dim, dim_v;
};

TEST_F(AmxKernels, Attention) {
  constexpr int64_t kBatch = 2, kHeads = 4, kHeadsKv = 2;
  constexpr AttentionSize kShapes[] = {{1, 1, 1, 1},     {1, 40, 32, 32},   {5, 33, 31, 17},
                                       {70, 70, 64, 64}, {33, 129, 80, 33}, {130, 300, 128, 96}};
  for (const AttentionSize& s : kShapes) {
    for (const bool causal : {false, true}) {
      Tensor q = Random(kBf16, kBatch * kHeads * s.seqlen_q, s.dim, 1.0f, 1);
      Tensor k = Random(kBf16, kBatch * kHeadsKv * s.seqlen_k, s.dim, 1.0f, 2);
      Tensor v = Random(kBf16, kBatch * kHeadsKv * s.seqlen_k, s.dim_v, 1.0f, 3);
      Tensor amx_lse(DType::kFloat32, kBatch * kHeads, s.seqlen_q);
      Tensor portable_lse(DType::kFloat32, kBatch * kHeads, s.seqlen_q);
      const Runner run = [&](const LaunchContext& ctx, Tensor* out) {
        Tensor* lse = ctx.isa == Isa::kAmx ? &amx_lse : &portable_lse;
        AttentionForwardArgs args;
        args.out = Heads(out, kBatch, kHeads, s.seqlen_q);
        args.lse = lse->view();
        args.lse.rank = 3;
        args.lse.shape[0] = kBatch;
        args.lse.shape[1] = kHeads;
        args.lse.shape[2] = s.seqlen_q;
        args.lse.strides[0] = kHeads * s.seqlen_q;
        args.lse.strides[1] = s.seqlen_q;
        args.lse.strides[2] = 1;
        args.q = Heads(&q, kBatch, kHeads, s.seqlen_q);
        args.k = Heads(&k, kBatch, kHeadsKv, s.seqlen_k);
        args.v = Heads(&v, kBatch, kHeadsKv, s.seqlen_k);
        args.is_causal = causal;
        return AttentionForward(ctx, args);
      };
      const std::string what = std::to_string(s.seqlen_q) + "x" + std::to_string(s.seqlen_k) + "x" +
                               std::to_string(s.dim) + "x" + std::to_string(s.dim_v);
      // The weights of the values are rounded to bfloat16, which the portable kernel does not do.
      Compare(run, "amx", kBatch * kHeads * s.seqlen_q, s.dim_v, 0x1p-6, 0x1p-6, what);
      ExpectNear(amx_lse, portable_lse, 1e-5, 1e-4, what + " lse");
    }
  }
}

}  // namespace
}  // namespace kpt::cpu

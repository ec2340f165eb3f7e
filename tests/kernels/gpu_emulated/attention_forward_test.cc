// attention_forward: its portable CUDA kernels in emulation (not run on a GPU), against float64.
#include <cmath>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/attention/flash_variants.h"
#include "tests/kernels/gpu_emulated/attention_reference.h"
#include "tests/kernels/gpu_emulated/emulated_testing.h"

namespace kpt::emulated {
namespace {

using emulated_testing::Attention;
using emulated_testing::Context;
using emulated_testing::Sizes;

Status Forward(const FlashProblem& p) {
  return RunForwardVariant("attention_forward", Context(), {p});
}

// Weights are rounded to 16 bits before they meet v, and so is the result.
void Check(Attention& a, const std::string& where) {
  const Status status = Forward(a.p);
  ASSERT_TRUE(status.ok()) << where << ": " << status.message();
  const double unit = a.p.dtype == DType::kFloat16 ? 0x1p-11 : 0x1p-8;
  const Sizes& n = a.n;
  for (int64_t b = 0; b < n.batch; ++b) {
    for (int64_t h = 0; h < n.heads_q; ++h) {
      const int64_t kv = h / (n.heads_q / n.heads_kv);
      for (int64_t i = 0; i < n.seqlen_q; ++i) {
        double lse;
        const std::vector<double> weights = a.Weights(b, h, i, &lse);
        const float got = a.lse[static_cast<size_t>((b * n.heads_q + h) * n.seqlen_q + i)];
        if (lse == -INFINITY) {
          ASSERT_EQ(got, -INFINITY) << where << " lse of " << b << ", " << h << ", " << i;
        } else {
          ASSERT_NEAR(got, lse, 2e-5 * (1.0 + std::fabs(lse)))
              << where << " lse of " << b << ", " << h << ", " << i;
        }
        for (int64_t d = 0; d < n.dim_v; ++d) {
          double want = 0.0, size = 0.0;
          for (int64_t j = 0; j < n.seqlen_k; ++j) {
            const double x = weights[static_cast<size_t>(j)] * a.v.Get(b, kv, j, d);
            want += x, size += std::fabs(x);
          }
          ASSERT_NEAR(a.out.Get(b, h, i, d), want, unit * (std::fabs(want) + size) + 1e-6)
              << where << " at " << b << ", " << h << ", " << i << ", " << d;
        }
      }
    }
  }
  EXPECT_TRUE(a.out.GapsUntouched()) << where;
}

constexpr DType kTypes[] = {DType::kBFloat16, DType::kFloat16};

TEST(EmulatedAttentionForward, HeadSizes) {
  for (DType dtype : kTypes) {
    for (const auto& [dim, dim_v] : std::vector<std::pair<int64_t, int64_t>>{{64, 64},
                                                                             {16, 16},
                                                                             {40, 24},
                                                                             {128, 128},
                                                                             {96, 96},
                                                                             {192, 128},
                                                                             {256, 256},
                                                                             {72, 200}}) {
      Attention a(dtype, {1, 2, 1, 37, 70, dim, dim_v}, 8, 1);
      Check(a, std::to_string(dim) + "/" + std::to_string(dim_v));
    }
  }
}

TEST(EmulatedAttentionForward, RowsOfAnyLayout) {
  // Neither 16-byte pieces nor pairs.
  for (const auto& [dim, gap] :
       std::vector<std::pair<int64_t, int64_t>>{{64, 3}, {33, 0}, {1, 1}, {130, 2}, {7, 5}}) {
    Attention a(DType::kBFloat16, {2, 2, 2, 19, 33, dim, dim}, gap, 2);
    Check(a, "dim " + std::to_string(dim) + " gap " + std::to_string(gap));
  }
}

TEST(EmulatedAttentionForward, CausalAndWindows) {
  struct Case {
    int64_t sq, sk;
    bool causal;
    int64_t left, right, prefix;
  };
  for (const Case& c : {Case{129, 129, true, -1, -1, 0}, Case{1, 200, true, -1, -1, 0},
                        Case{70, 33, true, -1, -1, 0}, Case{33, 150, true, 20, -1, 0},
                        Case{100, 100, false, 10, 5, 0}, Case{64, 64, true, -1, -1, 40},
                        Case{90, 20, false, 0, 0, 0}, Case{127, 127, true, 0, -1, 0}}) {
    Attention a(DType::kBFloat16, {2, 4, 2, c.sq, c.sk, 64, 64}, 0, 3);
    a.p.is_causal = c.causal;
    a.p.window_left = c.left, a.p.window_right = c.right, a.p.prefix_len = c.prefix;
    Check(a, std::to_string(c.sq) + "x" + std::to_string(c.sk));
  }
}

TEST(EmulatedAttentionForward, EveryOption) {
  for (DType dtype : kTypes) {
    for (int option = 0; option < 8; ++option) {
      Attention a(dtype, {2, 6, 2, 45, 77, 64, 64}, 8, 4);
      if (option == 0 || option == 7) a.p.softcap = 3.0f;
      if (option == 1 || option == 7) a.SetAlibi();
      if (option == 2 || option == 7) a.SetSinks();
      if (option == 3) a.SetMask(false, 5);
      if (option == 4 || option == 7) a.SetMask(true, 6);
      if (option == 5 || option == 7) a.SetDocuments(16);
      if (option == 6) a.p.scale = -0.3f;
      a.p.is_causal = option % 2 == 1;
      Check(a, "option " + std::to_string(option));
    }
  }
}

TEST(EmulatedAttentionForward, LongDocumentsSkipBlocks) {
  Attention a(DType::kBFloat16, {1, 1, 1, 300, 300, 64, 64}, 0, 8);
  a.SetDocuments(70);
  Check(a, "documents");
}

TEST(EmulatedAttentionForward, NoKeys) {
  Attention a(DType::kBFloat16, {1, 2, 1, 5, 0, 64, 64}, 0, 8);
  Check(a, "no keys");
  Attention b(DType::kBFloat16, {1, 2, 1, 5, 0, 64, 64}, 0, 8);
  b.SetSinks();
  Check(b, "no keys but sinks");
}

TEST(EmulatedAttentionForward, NanAndInfinityPropagate) {
  Attention a(DType::kBFloat16, {1, 1, 1, 40, 40, 64, 64}, 0, 9);
  a.p.is_causal = true;
  a.q.Set(0, 0, 3, 5, NAN);
  a.k.Set(0, 0, 30, 1, INFINITY);
  ASSERT_TRUE(Forward(a.p).ok());
  for (int64_t i = 0; i < 40; ++i) {
    const bool infinite = i >= 30 && a.q.Get(0, 0, i, 1) > 0.0;  // a score of +inf
    EXPECT_EQ(std::isnan(a.out.Get(0, 0, i, 0)), i == 3 || infinite) << i;
    EXPECT_EQ(std::isnan(a.lse[static_cast<size_t>(i)]), i == 3 || infinite) << i;
  }
}

TEST(EmulatedAttentionForward, BitsDependOnTheRowAlone) {
  // The same head among others and alone, which is cut into tiles of other sizes.
  Attention many(DType::kBFloat16, {3, 4, 4, 130, 130, 64, 64}, 0, 10);
  many.p.is_causal = true;
  ASSERT_TRUE(Forward(many.p).ok());
  for (uint32_t seed : {1u, 2u}) {
    gpu::emulator::SetSeed(seed);
    Attention one(DType::kBFloat16, {1, 1, 1, 130, 130, 64, 64}, 0, 11);
    one.p.is_causal = true;
    for (int64_t i = 0; i < 130; ++i) {
      for (int64_t d = 0; d < 64; ++d) {
        one.q.bits[one.q.At(0, 0, i, d)] = many.q.bits[many.q.At(2, 1, i, d)];
        one.k.bits[one.k.At(0, 0, i, d)] = many.k.bits[many.k.At(2, 1, i, d)];
        one.v.bits[one.v.At(0, 0, i, d)] = many.v.bits[many.v.At(2, 1, i, d)];
      }
    }
    ASSERT_TRUE(Forward(one.p).ok());
    for (int64_t i = 0; i < 130; ++i) {
      for (int64_t d = 0; d < 64; ++d) {
        ASSERT_EQ(one.out.bits[one.out.At(0, 0, i, d)], many.out.bits[many.out.At(2, 1, i, d)]);
      }
    }
  }
}

}  // namespace
}  // namespace kpt::emulated

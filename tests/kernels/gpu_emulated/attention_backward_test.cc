// attention_backward: its portable CUDA kernels in emulation (not run on a GPU), against float64.
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/attention/cuda/flash_backward_kernels.h"
#include "kernels/attention/flash_variants.h"
#include "tests/kernels/gpu_emulated/attention_reference.h"
#include "tests/kernels/gpu_emulated/emulated_testing.h"

namespace kpt::emulated {
namespace {

using emulated_testing::Attention;
using emulated_testing::Context;
using emulated_testing::Sizes;
using emulated_testing::Tensor4;

// Gradients in float64, [batch, heads, rows, dim].
struct Exact {
  int64_t heads, rows, dim;
  std::vector<double> x, size;  // the sum, and that of the magnitudes

  Exact(const Sizes& n, int64_t h, int64_t s, int64_t d)
      : heads(h), rows(s), dim(d), x(static_cast<size_t>(n.batch * h * s * d)), size(x) {}
  void Add(int64_t b, int64_t h, int64_t s, int64_t d, double value) {
    const size_t at = static_cast<size_t>(((b * heads + h) * rows + s) * dim + d);
    x[at] += value;
    size[at] += std::fabs(value);
  }
  void ExpectNear(const Tensor4& got, double unit, const std::string& where) const {
    double largest = 0.0;
    for (double s : size) largest = std::fmax(largest, s);
    for (int64_t b = 0; b < got.batch; ++b) {
      for (int64_t h = 0; h < heads; ++h) {
        for (int64_t s = 0; s < rows; ++s) {
          for (int64_t d = 0; d < dim; ++d) {
            const size_t at = static_cast<size_t>(((b * heads + h) * rows + s) * dim + d);
            ASSERT_NEAR(got.Get(b, h, s, d), x[at],
                        unit * (std::fabs(x[at]) + size[at] + 0.1 * largest) + 1e-6)
                << where << " at " << b << ", " << h << ", " << s << ", " << d;
          }
        }
      }
    }
    EXPECT_TRUE(got.GapsUntouched()) << where;
  }
};

struct Gradients {
  Tensor4 grad_out, q, k, v;
  std::vector<float> grad_lse;

  Gradients(const Attention& a, int64_t gap)
      : grad_out(a.p.dtype, a.n.batch, a.n.heads_q, a.n.seqlen_q, a.n.dim_v, gap),
        q(a.p.dtype, a.n.batch, a.n.heads_q, a.n.seqlen_q, a.n.dim, gap),
        k(a.p.dtype, a.n.batch, a.n.heads_kv, a.n.seqlen_k, a.n.dim, gap),
        v(a.p.dtype, a.n.batch, a.n.heads_kv, a.n.seqlen_k, a.n.dim_v, gap) {
    std::mt19937 random(77);
    grad_out.Fill(&random, 1.0f);
  }
};

Status Backward(const Attention& a, Gradients* g) {
  FlashBackwardProblem p{};
  static_cast<FlashProblem&>(p) = a.p;
  p.grad_out = g->grad_out.bits.data();
  p.grad_out_stride = g->grad_out.strides();
  if (!g->grad_lse.empty()) p.grad_lse = g->grad_lse.data();
  p.grad_lse_stride = p.lse_stride;
  p.grad_q = g->q.bits.data(), p.grad_k = g->k.bits.data(), p.grad_v = g->v.bits.data();
  p.grad_q_stride = g->q.strides(), p.grad_k_stride = g->k.strides();
  p.grad_v_stride = g->v.strides();
  std::vector<float> workspace(static_cast<size_t>(FlashBackwardWorkspaceBytes(p) / 4), NAN);
  LaunchContext ctx = Context();
  ctx.workspace = workspace.data();
  ctx.workspace_bytes = static_cast<int64_t>(workspace.size()) * 4;
  return RunBackwardVariant("attention_backward", ctx, {p});
}

void Check(Attention& a, int64_t gap, bool with_grad_lse, const std::string& where) {
  const Sizes& n = a.n;
  Gradients g(a, gap);
  if (with_grad_lse) {
    for (size_t i = 0; i < a.lse.size(); ++i) {
      g.grad_lse.push_back(static_cast<float>(i % 7) * 0.2f - 0.5f);
    }
  }
  Exact q(n, n.heads_q, n.seqlen_q, n.dim), k(n, n.heads_kv, n.seqlen_k, n.dim);
  Exact v(n, n.heads_kv, n.seqlen_k, n.dim_v);
  for (int64_t b = 0; b < n.batch; ++b) {
    for (int64_t h = 0; h < n.heads_q; ++h) {
      const int64_t kv = h / (n.heads_q / n.heads_kv);
      for (int64_t i = 0; i < n.seqlen_q; ++i) {
        double lse;
        const std::vector<double> weights = a.Weights(b, h, i, &lse);
        const size_t row = static_cast<size_t>((b * n.heads_q + h) * n.seqlen_q + i);
        a.lse[row] = static_cast<float>(lse);
        std::vector<double> dp(weights.size());
        double delta = with_grad_lse ? -g.grad_lse[row] : 0.0;
        for (int64_t d = 0; d < n.dim_v; ++d) {
          double out = 0.0;
          for (int64_t j = 0; j < n.seqlen_k; ++j) {
            out += weights[static_cast<size_t>(j)] * a.v.Get(b, kv, j, d);
            dp[static_cast<size_t>(j)] += g.grad_out.Get(b, h, i, d) * a.v.Get(b, kv, j, d);
            v.Add(b, kv, j, d, weights[static_cast<size_t>(j)] * g.grad_out.Get(b, h, i, d));
          }
          a.out.Set(b, h, i, d, static_cast<float>(out));
          delta += a.out.Get(b, h, i, d) * g.grad_out.Get(b, h, i, d);
        }
        for (int64_t j = 0; j < n.seqlen_k; ++j) {
          const double p = weights[static_cast<size_t>(j)];
          if (p == 0.0) continue;
          double ds = p * (dp[static_cast<size_t>(j)] - delta) * a.p.scale;
          if (a.p.softcap > 0.0f) {
            const double t = std::tanh(a.p.scale * a.Dot(b, h, i, j) / a.p.softcap);
            ds *= 1.0 - t * t;
          }
          for (int64_t d = 0; d < n.dim; ++d) {
            q.Add(b, h, i, d, ds * a.k.Get(b, kv, j, d));
            k.Add(b, kv, j, d, ds * a.q.Get(b, h, i, d));
          }
        }
      }
    }
  }
  const Status status = Backward(a, &g);
  ASSERT_TRUE(status.ok()) << where << ": " << status.message();
  const double unit = a.p.dtype == DType::kFloat16 ? 0x1p-10 : 0x1p-7;
  q.ExpectNear(g.q, unit, where + " grad_q");
  k.ExpectNear(g.k, unit, where + " grad_k");
  v.ExpectNear(g.v, unit, where + " grad_v");
}

constexpr DType kTypes[] = {DType::kBFloat16, DType::kFloat16};

TEST(EmulatedAttentionBackward, HeadSizes) {
  for (const auto& [dim, dim_v] : std::vector<std::pair<int64_t, int64_t>>{
           {64, 64}, {16, 16}, {128, 128}, {96, 40}, {192, 128}, {256, 256}}) {
    Attention a(DType::kBFloat16, {1, 2, 1, 37, 70, dim, dim_v}, 8, 1);
    Check(a, 0, false, std::to_string(dim) + "/" + std::to_string(dim_v));
  }
}

TEST(EmulatedAttentionBackward, RowsOfAnyLayout) {
  for (const auto& [dim, gap] :
       std::vector<std::pair<int64_t, int64_t>>{{64, 3}, {33, 0}, {1, 1}}) {
    Attention a(DType::kFloat16, {2, 2, 2, 19, 33, dim, dim}, gap, 2);
    Check(a, gap, true, "dim " + std::to_string(dim) + " gap " + std::to_string(gap));
  }
}

TEST(EmulatedAttentionBackward, CausalAndWindows) {
  struct Case {
    int64_t sq, sk;
    bool causal;
    int64_t left, right, prefix;
  };
  for (const Case& c : {Case{129, 150, true, -1, -1, 0}, Case{1, 200, true, -1, -1, 0},
                        Case{70, 33, true, -1, -1, 0}, Case{33, 150, true, 20, -1, 0},
                        Case{100, 100, false, 10, 5, 0}, Case{64, 64, true, -1, -1, 40}}) {
    Attention a(DType::kBFloat16, {1, 4, 2, c.sq, c.sk, 32, 32}, 0, 3);
    a.p.is_causal = c.causal;
    a.p.window_left = c.left, a.p.window_right = c.right, a.p.prefix_len = c.prefix;
    Check(a, 0, false, std::to_string(c.sq) + "x" + std::to_string(c.sk));
  }
}

TEST(EmulatedAttentionBackward, EveryOption) {
  for (DType dtype : kTypes) {
    for (int option = dtype == DType::kFloat16 ? 7 : 0; option < 8; ++option) {
      Attention a(dtype, {1, 6, 2, 45, 77, 32, 32}, 8, 4);
      if (option == 0 || option == 7) a.p.softcap = 3.0f;
      if (option == 1 || option == 7) a.SetAlibi();
      if (option == 2 || option == 7) a.SetSinks();
      if (option == 3) a.SetMask(false, 5);
      if (option == 4 || option == 7) a.SetMask(true, 6);
      if (option == 5 || option == 7) a.SetDocuments(16);
      if (option == 6) a.p.scale = -0.3f;
      a.p.is_causal = option % 2 == 1;
      Check(a, 8, option == 2, "option " + std::to_string(option));
    }
  }
}

TEST(EmulatedAttentionBackward, TheSameBitsInAnyOrderOfThreads) {
  std::vector<uint16_t> first;
  for (uint32_t seed : {1u, 2u, 3u}) {
    gpu::emulator::SetSeed(seed);
    Attention a(DType::kBFloat16, {1, 4, 1, 70, 70, 32, 32}, 0, 3);
    a.p.is_causal = true;
    Check(a, 0, false, "seed");
    Gradients g(a, 0);
    ASSERT_TRUE(Backward(a, &g).ok());
    std::vector<uint16_t> all = g.q.bits;
    all.insert(all.end(), g.k.bits.begin(), g.k.bits.end());
    all.insert(all.end(), g.v.bits.begin(), g.v.bits.end());
    if (first.empty()) first = all;
    EXPECT_EQ(all, first);
  }
}

}  // namespace
}  // namespace kpt::emulated

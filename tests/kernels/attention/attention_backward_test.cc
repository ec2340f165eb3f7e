// attention_backward and the operators on packed sequences: every instruction set, dtype and option
// against double precision; threads, chunks and batches; sequences against batches; refusals.
#include "kernels/attention/attention_backward.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/attention/attention_varlen.h"
#include "tests/kernels/attention/attention_options_testing.h"
#include "tests/kernels/attention/attention_testing.h"

namespace kpt::cpu {
namespace {

using testing_util::At;
using testing_util::Data;
using testing_util::Dense;
using testing_util::ExactRow;
using testing_util::HeadTensor;
using testing_util::kFloats;
using testing_util::Levels;
using testing_util::MaskAt;
using testing_util::Option;
using testing_util::Options;
using testing_util::Problem;
using testing_util::Sizes;
using testing_util::Unit;

// A forward call, and the backward call on what it gave.
struct Gradients {
  Gradients(DType dtype, const Sizes& n, const Option& option, int64_t gap = 0)
      : forward(dtype, n, gap),
        grad_out(dtype, n.batch, n.heads_q, n.seqlen_q, n.dim_v, gap),
        grad_q(dtype, n.batch, n.heads_q, n.seqlen_q, n.dim_qk, gap),
        grad_k(dtype, n.batch, n.heads_kv, n.seqlen_k, n.dim_qk, gap),
        grad_v(dtype, n.batch, n.heads_kv, n.seqlen_k, n.dim_v, gap) {
    std::mt19937 random(5);
    grad_out.memory.Fill(&random, 0.0f, 1.0f);
    option.set(n, &forward.args, &data);
    static_cast<AttentionOptions&>(args) = forward.args;
    args.q = forward.args.q;
    args.k = forward.args.k;
    args.v = forward.args.v;
    args.out = forward.args.out;
    args.lse = forward.args.lse;
    args.grad_out = grad_out.view();
    args.grad_q = grad_q.view();
    args.grad_k = grad_k.view();
    args.grad_v = grad_v.view();
  }
  Gradients(const Gradients&) = delete;

  Status Run(const LaunchContext& ctx) {
    KPT_RETURN_IF_ERROR(forward.Run(ctx));
    return AttentionBackward(ctx, args);
  }
  std::vector<unsigned char> Bytes() const {
    std::vector<unsigned char> all;
    for (const HeadTensor* t : {&grad_q, &grad_k, &grad_v}) {
      all.insert(all.end(), t->memory.bytes().begin(), t->memory.bytes().end());
    }
    return all;
  }

  Problem forward;
  HeadTensor grad_out, grad_q, grad_k, grad_v;
  Data data;
  AttentionBackwardArgs args;
};

// A gradient in double and what the errors of rounding may add up to.
struct Exact {
  explicit Exact(int64_t count)
      : value(static_cast<size_t>(count)), spread(static_cast<size_t>(count)) {}
  void Add(int64_t at, double x) {
    value[static_cast<size_t>(at)] += x;
    spread[static_cast<size_t>(at)] += std::fabs(x);
  }
  std::vector<double> value, spread;
};

// The formulas of attention_backward.h for batch entry `b` and key head `kv`, term by term.
void ExpectExact(const Gradients& g, int64_t b, int64_t kv, const std::string& where) {
  const Sizes& n = g.forward.sizes;
  const AttentionBackwardArgs& a = g.args;
  const double infinity = std::numeric_limits<double>::infinity();
  const double scale = a.scale.has_value() ? static_cast<double>(*a.scale)
                                           : 1 / std::sqrt(static_cast<double>(n.dim_qk));
  const double softcap = static_cast<double>(a.softcap);
  const int64_t group = n.heads_q / n.heads_kv;
  Exact dk(n.seqlen_k * n.dim_qk), dv(n.seqlen_k * n.dim_v);
  const double unit = Unit(a.q.dtype);
  // Rounding of the result; of bfloat16 weights and of the outputs that delta is made from.
  const double narrow = a.q.dtype == DType::kFloat32 ? 0.0 : 3 * unit;
  const auto expect = [&](const HeadTensor& t, int64_t h, int64_t r, int64_t c, const Exact& e,
                          int64_t at, const char* name) {
    const double want = e.value[static_cast<size_t>(at)];
    const double allowed =
        1.01 * unit * std::fabs(want) + (narrow + 1e-5) * e.spread[static_cast<size_t>(at)] + 1e-6;
    ASSERT_NEAR(static_cast<double>(t.Get(b, h, r, c)), want, allowed)
        << where << ": " << name << " at " << b << ", " << h << ", " << r << ", " << c;
  };
  for (int64_t h = kv * group; h < (kv + 1) * group; ++h) {
    for (int64_t i = 0; i < n.seqlen_q; ++i) {
      const ExactRow row(g.forward, b, h, i);
      const int64_t position = i + n.seqlen_k - n.seqlen_q;
      double delta = 0, delta_spread = 0;
      for (int64_t c = 0; c < n.dim_v; ++c) {
        const double x = static_cast<double>(g.grad_out.Get(b, h, i, c));
        delta += x * row.out[static_cast<size_t>(c)];
        delta_spread += std::fabs(x * row.out[static_cast<size_t>(c)]);
      }
      Exact dq(n.dim_qk);
      for (int64_t j = 0; j < n.seqlen_k; ++j) {
        double bias = 0;
        if (a.mask.present()) bias = MaskAt(a.mask, {b, h, i, j});
        const bool hidden = bias == -infinity ||
                            (a.is_causal && j > position && j >= a.prefix_len) ||
                            (a.window_left >= 0 && j < position - a.window_left) ||
                            (a.window_right >= 0 && j > position + a.window_right) ||
                            (a.q_doc.present() && testing_util::DocumentAt(a.q_doc, b, i) !=
                                                      testing_util::DocumentAt(a.k_doc, b, j));
        if (hidden) continue;
        double s = 0, dp = 0, dp_spread = 0;
        for (int64_t c = 0; c < n.dim_qk; ++c) {
          s += static_cast<double>(g.forward.q.Get(b, h, i, c)) *
               static_cast<double>(g.forward.k.Get(b, kv, j, c));
        }
        for (int64_t c = 0; c < n.dim_v; ++c) {
          const double x = static_cast<double>(g.grad_out.Get(b, h, i, c)) *
                           static_cast<double>(g.forward.v.Get(b, kv, j, c));
          dp += x;
          dp_spread += std::fabs(x);
        }
        s *= scale;
        double slope = 1;
        if (softcap > 0) {
          const double y = std::tanh(s / softcap);
          slope = 1 - y * y;
          s = softcap * y;
        }
        if (a.alibi_slopes.present()) {
          const int64_t at = a.alibi_slopes.rank == 2 ? b * n.heads_q + h : h;
          s -= static_cast<double>(a.alibi_slopes.as<float>()[at]) *
               static_cast<double>(std::abs(position - j));
        }
        const double p = std::exp(s + bias - row.lse);
        const double ds = p * (dp - delta) * slope;
        const double ds_spread = p * (dp_spread + delta_spread);
        for (int64_t c = 0; c < n.dim_v; ++c) {
          dv.Add(j * n.dim_v + c, p * static_cast<double>(g.grad_out.Get(b, h, i, c)));
        }
        for (int64_t c = 0; c < n.dim_qk; ++c) {
          const double q = static_cast<double>(g.forward.q.Get(b, h, i, c));
          const double k = static_cast<double>(g.forward.k.Get(b, kv, j, c));
          const size_t at = static_cast<size_t>(j * n.dim_qk + c);
          dk.value[at] += scale * ds * q;
          dk.spread[at] += std::fabs(scale * ds_spread * q);
          dq.value[static_cast<size_t>(c)] += scale * ds * k;
          dq.spread[static_cast<size_t>(c)] += std::fabs(scale * ds_spread * k);
        }
      }
      for (int64_t c = 0; c < n.dim_qk; ++c) expect(g.grad_q, h, i, c, dq, c, "grad_q");
    }
  }
  for (int64_t j = 0; j < n.seqlen_k; ++j) {
    for (int64_t c = 0; c < n.dim_qk; ++c) {
      expect(g.grad_k, kv, j, c, dk, j * n.dim_qk + c, "grad_k");
    }
    for (int64_t c = 0; c < n.dim_v; ++c) expect(g.grad_v, kv, j, c, dv, j * n.dim_v + c, "grad_v");
  }
}

// Around the sizes of tiles of queries, groups and blocks of keys.
constexpr Sizes kSizes[] = {
    {1, 1, 1, 1, 1, 1, 1},     {2, 2, 2, 7, 9, 3, 5},       {1, 4, 2, 49, 50, 32, 32},
    {1, 1, 1, 65, 97, 40, 24}, {1, 2, 1, 13, 100, 64, 130}, {1, 1, 1, 130, 30, 128, 17},
};

TEST(AttentionBackward, AgreesWithDoubleAtEveryLevel) {
  for (const Isa isa : Levels()) {
    for (const DType dtype : kFloats) {
      for (const Sizes& sizes : kSizes) {
        for (const Option& option : Options()) {
          Gradients g(dtype, sizes, option, 3);
          LaunchRecord record;
          const Status status = g.Run(At(isa, &record));
          ASSERT_TRUE(status.ok()) << status.message();
          for (int64_t b = 0; b < sizes.batch; ++b) {
            for (int64_t kv = 0; kv < sizes.heads_kv; ++kv) {
              ExpectExact(g, b, kv,
                          std::string(record.variant) + " " + Name(dtype) + " " + sizes.Text() +
                              " " + option.name);
              if (HasFatalFailure()) return;
            }
          }
          for (const HeadTensor* t : {&g.grad_q, &g.grad_k, &g.grad_v}) {
            EXPECT_TRUE(t->memory.GapsUntouched());
          }
        }
      }
    }
  }
}

// More than one chunk of keys, on one thread or split among several.
TEST(AttentionBackward, NeitherThreadsNorTheBatchChangeTheResult) {
  for (const Isa isa : Levels()) {
    for (const Option& option : {Options()[0], Options()[1], Options()[2], Options()[8]}) {
      Gradients one(DType::kBFloat16, {3, 2, 1, 150, 1300, 16, 16}, option);
      LaunchContext ctx = At(isa);
      ctx.num_threads = 1;
      ASSERT_TRUE(one.Run(ctx).ok());
      const std::vector<unsigned char> want = one.Bytes();
      for (const int threads : {2, 3, 5}) {
        ctx.num_threads = threads;
        ASSERT_TRUE(one.Run(ctx).ok());
        EXPECT_EQ(one.Bytes(), want) << threads << " threads, " << option.name;
      }
      // The first entry alone.
      AttentionBackwardArgs args = one.args;
      for (TensorView* t : std::initializer_list<TensorView*>{
               &args.q, &args.k, &args.v, &args.out, &args.lse, &args.grad_out, &args.grad_q,
               &args.grad_k, &args.grad_v}) {
        t->shape[0] = 1;
      }
      if (args.mask.present()) args.mask.shape[0] = 1;
      ASSERT_TRUE(AttentionBackward(ctx, args).ok());
      EXPECT_EQ(one.Bytes(), want) << "alone, " << option.name;
    }
  }
}

// A [1, H, S, D] tensor as [S, H, D], and [1, H, S] as [H, S].
template <class View>
View Packed(const View& heads) {
  View rows = heads;
  rows.rank = heads.rank - 1;
  for (int i = 0; i < rows.rank; ++i) {
    const int from = heads.rank == 3 ? i + 1 : (i == 0 ? 2 : i == 1 ? 1 : 3);
    rows.shape[i] = heads.shape[from];
    rows.strides[i] = heads.strides[from];
  }
  return rows;
}

template <class View>
View Part(View t, int dim, int64_t begin, int64_t end) {
  t.data = static_cast<const char*>(t.data) + begin * t.strides[dim] * ItemSize(t.dtype);
  t.shape[dim] = end - begin;
  return t;
}

TEST(AttentionVarlen, SequencesGiveWhatTheyGiveAlone) {
  const std::vector<int32_t> ends_q = {0, 20, 20, 33, 40, 110}, ends_k = {0, 31, 40, 40, 47, 130};
  const Sizes all{1, 4, 2, 110, 130, 32, 24};
  for (const Isa isa : Levels()) {
    for (const DType dtype : kFloats) {
      for (const Option& option : {Options()[0], Options()[3], Options()[5], Options()[11]}) {
        Gradients packed(dtype, all, option), alone(dtype, all, option);
        AttentionVarlenForwardArgs forward;
        AttentionVarlenBackwardArgs backward;
        for (PackedSequences* s : std::initializer_list<PackedSequences*>{&forward, &backward}) {
          static_cast<AttentionOptions&>(*s) = packed.args;
          s->q = Packed(packed.args.q);
          s->k = Packed(packed.args.k);
          s->v = Packed(packed.args.v);
          s->cu_seqlens_q = Dense(ends_q, DType::kInt32, {6});
          s->cu_seqlens_k = Dense(ends_k, DType::kInt32, {6});
          s->max_seqlen_q = 70;
          s->max_seqlen_k = 83;
        }
        forward.out = Packed(packed.forward.args.out);
        forward.lse = Packed(packed.forward.args.lse);
        backward.out = forward.out;
        backward.lse = forward.lse;
        backward.grad_out = Packed(packed.args.grad_out);
        backward.grad_q = Packed(packed.args.grad_q);
        backward.grad_k = Packed(packed.args.grad_k);
        backward.grad_v = Packed(packed.args.grad_v);
        ASSERT_TRUE(AttentionVarlenForward(At(isa), forward).ok());
        ASSERT_TRUE(AttentionVarlenBackward(At(isa), backward).ok());

        for (size_t s = 0; s + 1 < ends_q.size(); ++s) {
          const auto queries = [&](auto t) { return Part(t, 2, ends_q[s], ends_q[s + 1]); };
          const auto keys = [&](auto t) { return Part(t, 2, ends_k[s], ends_k[s + 1]); };
          AttentionForwardArgs f = alone.forward.args;
          f.q = queries(f.q);
          f.k = keys(f.k);
          f.v = keys(f.v);
          f.out = queries(f.out);
          f.lse = queries(f.lse);
          ASSERT_TRUE(AttentionForward(At(isa), f).ok());
          AttentionBackwardArgs b = alone.args;
          b.q = f.q;
          b.k = f.k;
          b.v = f.v;
          b.out = f.out;
          b.lse = f.lse;
          b.grad_out = queries(b.grad_out);
          b.grad_q = queries(b.grad_q);
          b.grad_k = keys(b.grad_k);
          b.grad_v = keys(b.grad_v);
          ASSERT_TRUE(AttentionBackward(At(isa), b).ok());
        }
        EXPECT_EQ(packed.Bytes(), alone.Bytes()) << option.name;
        EXPECT_EQ(packed.forward.out.memory.bytes(), alone.forward.out.memory.bytes());
        EXPECT_EQ(packed.forward.lse.memory.bytes(), alone.forward.lse.memory.bytes());
      }
    }
  }
}

TEST(AttentionBackward, Refusals) {
  using A = AttentionBackwardArgs;
  const struct {
    std::function<void(A*)> spoil;
    const char* part;
  } refusals[] = {
      {[](A* a) { a->grad_out.shape[2] = 4; }, "'grad_out' must have shape [1, 4, 3, 8]"},
      {[](A* a) { a->out.dtype = DType::kFloat16; }, "'out' must have dtype float32"},
      {[](A* a) { a->out.strides[3] = 2; }, "'out' must have a dense last dimension"},
      {[](A* a) { a->lse.shape[1] = 2; }, "'lse' must have shape [1, 4, 3]"},
      {[](A* a) { a->lse.dtype = DType::kBFloat16; }, "'lse' must have dtype float32"},
      {[](A* a) { (a->grad_lse = a->lse).shape[2] = 9; }, "'grad_lse' must have shape [1, 4, 3]"},
      {[](A* a) { a->grad_q.shape[3] = 4; }, "'grad_q' must have shape"},
      {[](A* a) { a->grad_v.dtype = DType::kFloat16; }, "'grad_v' must have dtype float32"},
      {[](A* a) { a->grad_k.data = a->k.data; }, "'grad_k' overlaps 'k' in memory"},
      {[](A* a) { a->grad_q.data = a->grad_out.data; }, "'grad_q' overlaps 'grad_out'"},
      {[](A* a) { a->grad_v.data = a->grad_k.data; }, "'grad_k' overlaps 'grad_v'"},
      {[](A* a) { a->grad_q.strides[1] = 0; }, "'grad_q' must not overlap itself"},
      {[](A* a) { a->k.shape[1] = a->v.shape[1] = 3; }, "multiple of k's 3 heads, got 4"},
      {[](A* a) { a->window_left = -2; }, "'window_left' must be -1"},
  };
  for (const auto& refusal : refusals) {
    Gradients g(DType::kFloat32, {1, 4, 2, 3, 5, 8, 8}, Options()[0]);
    const std::vector<unsigned char> before = g.Bytes();
    refusal.spoil(&g.args);
    const Status status = AttentionBackward(At(DetectedIsa()), g.args);
    EXPECT_FALSE(status.ok()) << refusal.part;
    EXPECT_EQ(status.message().rfind("attention_backward: argument ", 0), 0u) << status.message();
    EXPECT_NE(status.message().find(refusal.part), std::string::npos) << status.message();
    EXPECT_EQ(g.Bytes(), before) << "something was written: " << refusal.part;
  }
}

}  // namespace
}  // namespace kpt::cpu

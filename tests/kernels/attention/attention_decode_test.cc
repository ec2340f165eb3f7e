// attention_decode and attention_paged: every instruction set and dtype against double precision;
// pages against the contiguous cache; one-byte caches; lengths; refusals.
#include "kernels/attention/attention_decode.h"

#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/kernels/attention/attention_testing.h"

namespace kpt::cpu {
namespace {

using testing_util::Dense;
using testing_util::ExactRow;
using testing_util::kFloats;
using testing_util::Levels;
using testing_util::Problem;
using testing_util::Sizes;
using testing_util::Unit;

// Around the sizes of key blocks, pieces, and rows in registers.
constexpr Sizes kSizes[] = {
    {2, 2, 2, 1, 9, 3, 5},     {1, 4, 2, 1, 64, 32, 32},   {1, 8, 1, 1, 65, 40, 24},
    {2, 3, 3, 8, 129, 64, 65}, {1, 8, 2, 5, 1030, 16, 16}, {1, 40, 1, 1, 70, 128, 128},
    {1, 1, 1, 1, 1, 256, 1},   {1, 6, 2, 2, 600, 33, 130},
};

// The arguments of a problem whose sequences all fill its cache.
struct Decode {
  explicit Decode(Problem* p) : lens(static_cast<size_t>(p->sizes.batch), p->sizes.seqlen_k) {
    p->args.is_causal = true;
    args.out = p->args.out;
    args.q = p->args.q;
    args.k = p->args.k;
    args.v = p->args.v;
    args.seq_lens = Dense(lens, DType::kInt64, {p->sizes.batch});
  }
  std::vector<int64_t> lens;
  AttentionDecodeArgs args;
};

void ExpectExact(const Problem& p, const std::string& where) {
  const double unit = Unit(p.args.q.dtype);
  const Sizes& n = p.sizes;
  for (int64_t b = 0; b < n.batch; ++b) {
    for (int64_t h = 0; h < n.heads_q; ++h) {
      for (int64_t i = 0; i < n.seqlen_q; ++i) {
        const ExactRow want(p, b, h, i);
        for (int64_t c = 0; c < n.dim_v; ++c) {
          ASSERT_NEAR(static_cast<double>(p.out.Get(b, h, i, c)), want.out[static_cast<size_t>(c)],
                      4 * unit + 4e-6)
              << where << " at " << b << ", " << h << ", " << i << ", " << c;
        }
      }
    }
  }
}

TEST(AttentionDecode, MatchesDoublePrecision) {
  for (const Isa isa : Levels()) {
    LaunchContext ctx;
    ctx.isa = isa;
    for (const DType dtype : kFloats) {
      for (const Sizes& n : kSizes) {
        for (const bool extras : {false, true}) {
          Problem p(dtype, n, /*gap=*/3, /*by_token=*/extras);
          Decode d(&p);
          std::vector<float> per_head;
          for (int64_t h = 0; h < n.heads_q; ++h) {
            per_head.push_back(0.02f * static_cast<float>(h % 7) - 0.03f);
          }
          if (extras) {
            p.args.softcap = d.args.softcap = 3.0f;
            p.args.window_left = d.args.window_left = 40;
            p.args.scale = d.args.scale = 0.3f;
            p.args.alibi_slopes = d.args.alibi_slopes =
                Dense(per_head, DType::kFloat32, {n.heads_q});
            p.args.sinks = d.args.sinks = p.args.alibi_slopes;
          }
          const Status status = AttentionDecode(ctx, d.args);
          ASSERT_TRUE(status.ok()) << status.message();
          ExpectExact(p, std::string(Name(ctx.isa)) + " " + Name(dtype) + " " + n.Text());
        }
      }
    }
  }
}

TEST(AttentionDecode, ThreadsChangeNothing) {
  Problem p(DType::kBFloat16, {1, 8, 2, 3, 1500, 64, 64});
  Decode d(&p);
  std::string first;
  for (const int threads : {1, 2, 3, 7}) {
    LaunchContext ctx;
    ctx.isa = DetectedIsa();
    ctx.num_threads = threads;
    ASSERT_TRUE(AttentionDecode(ctx, d.args).ok());
    const auto* bytes = static_cast<const char*>(d.args.out.data);
    const std::string now(bytes, static_cast<size_t>(d.args.out.size()) * 2);
    if (first.empty()) first = now;
    EXPECT_EQ(now, first) << threads;
  }
}

// The same keys, cut into pages that lie in another order.
TEST(AttentionPaged, IsTheContiguousCacheInPages) {
  for (const Isa isa : Levels()) {
    LaunchContext ctx;
    ctx.isa = isa;
    for (const int64_t page : {1, 7, 16}) {
      const Sizes n = {2, 4, 2, 2, 100, 48, 40};
      Problem p(DType::kFloat32, n);
      Decode d(&p);
      d.lens = {100, 37};
      ASSERT_TRUE(AttentionDecode(ctx, d.args).ok());
      const std::vector<float> want(d.args.out.as<float>(),
                                    d.args.out.as<float>() + d.args.out.size());
      const int64_t each = (n.seqlen_k + page - 1) / page;
      const int64_t count = n.batch * each;
      std::vector<int32_t> table(static_cast<size_t>(count));
      std::vector<float> k(static_cast<size_t>(count * n.heads_kv * page * n.dim_qk), NAN);
      std::vector<float> v(static_cast<size_t>(count * n.heads_kv * page * n.dim_v), NAN);
      for (int64_t b = 0; b < n.batch; ++b) {
        for (int64_t i = 0; i < each; ++i) {
          // Entries that no sequence reaches name no page.
          const bool used = i * page < d.lens[static_cast<size_t>(b)];
          const int64_t at = (b * each + i) * 11 % count;  // 11 divides no count here
          table[static_cast<size_t>(b * each + i)] = used ? static_cast<int32_t>(at) : -5;
          for (int64_t h = 0; used && h < n.heads_kv; ++h) {
            for (int64_t r = 0; r < page && i * page + r < n.seqlen_k; ++r) {
              const auto row = (at * n.heads_kv + h) * page + r;
              for (int64_t c = 0; c < n.dim_qk; ++c) {
                k[static_cast<size_t>(row * n.dim_qk + c)] = p.k.Get(b, h, i * page + r, c);
              }
              for (int64_t c = 0; c < n.dim_v; ++c) {
                v[static_cast<size_t>(row * n.dim_v + c)] = p.v.Get(b, h, i * page + r, c);
              }
            }
          }
        }
      }
      d.args.k = Dense(k, DType::kFloat32, {count, n.heads_kv, page, n.dim_qk});
      d.args.v = Dense(v, DType::kFloat32, {count, n.heads_kv, page, n.dim_v});
      d.args.block_table = Dense(table, DType::kInt32, {n.batch, each});
      const Status status = AttentionPaged(ctx, d.args);
      ASSERT_TRUE(status.ok()) << status.message();
      for (size_t i = 0; i < want.size(); ++i) ASSERT_EQ(d.args.out.as<float>()[i], want[i]) << i;

      table[0] = static_cast<int32_t>(count);
      EXPECT_EQ(AttentionPaged(ctx, d.args).code(), StatusCode::kInvalidArgument);
    }
  }
}

// Bytes times their scales are the floats that they stand for.
TEST(AttentionDecode, BytesWithScales) {
  const Sizes n = {2, 4, 2, 1, 131, 72, 40};
  for (const Isa isa : Levels()) {
    LaunchContext ctx;
    ctx.isa = isa;
    Problem p(DType::kFloat32, n);
    Decode d(&p);
    std::mt19937 random(5);
    const int64_t rows = n.batch * n.heads_kv * n.seqlen_k;
    std::vector<int8_t> k, v;
    std::vector<float> scale;
    for (int64_t i = 0; i < rows; ++i) scale.push_back(0.01f + 1e-4f * static_cast<float>(i % 50));
    for (int64_t b = 0; b < n.batch; ++b) {
      for (int64_t h = 0; h < n.heads_kv; ++h) {
        for (int64_t j = 0; j < n.seqlen_k; ++j) {
          const float s = scale[static_cast<size_t>((b * n.heads_kv + h) * n.seqlen_k + j)];
          for (int64_t c = 0; c < n.dim_qk; ++c) {
            k.push_back(static_cast<int8_t>(random() % 255 - 127));
            p.k.Set(b, h, j, c, s * static_cast<float>(k.back()));
          }
          for (int64_t c = 0; c < n.dim_v; ++c) {
            v.push_back(static_cast<int8_t>(random() % 255 - 127));
            p.v.Set(b, h, j, c, s * static_cast<float>(v.back()));
          }
        }
      }
    }
    d.args.k = Dense(k, DType::kInt8, {n.batch, n.heads_kv, n.seqlen_k, n.dim_qk});
    d.args.v = Dense(v, DType::kInt8, {n.batch, n.heads_kv, n.seqlen_k, n.dim_v});
    d.args.k_scale = d.args.v_scale =
        Dense(scale, DType::kFloat32, {n.batch, n.heads_kv, n.seqlen_k});
    const Status status = AttentionDecode(ctx, d.args);
    ASSERT_TRUE(status.ok()) << status.message();
    ExpectExact(p, std::string(Name(ctx.isa)) + " int8");
  }
}

TEST(AttentionDecode, RefusesLengthsOutsideTheCache) {
  Problem p(DType::kFloat32, {1, 2, 2, 1, 16, 8, 8});
  Decode d(&p);
  LaunchContext ctx;
  for (const int64_t length : {int64_t{-1}, int64_t{17}, INT64_MAX}) {
    d.lens[0] = length;
    const Status status = AttentionDecode(ctx, d.args);
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
    EXPECT_NE(status.message().find("seq_lens"), std::string::npos) << status.message();
  }
  d.lens[0] = 0;
  ASSERT_TRUE(AttentionDecode(ctx, d.args).ok());
  for (int64_t c = 0; c < 8; ++c) EXPECT_EQ(p.out.Get(0, 1, 0, c), 0.0f);
}

}  // namespace
}  // namespace kpt::cpu

// attention_forward: every instruction set, dtype and option against double precision; what hidden
// keys may hold; layouts, threads and batches; addresses beyond 32 bits; refusals.
#include "kernels/attention/attention_forward.h"

#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "gtest/gtest.h"
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
using testing_util::Option;
using testing_util::Options;
using testing_util::Problem;
using testing_util::Sizes;
using testing_util::Unit;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

// Around the sizes of tiles, groups, blocks of queries and blocks of keys.
constexpr Sizes kSizes[] = {
    {1, 1, 1, 1, 1, 1, 1},       {2, 2, 2, 7, 9, 3, 5},       {1, 2, 1, 13, 33, 8, 16},
    {1, 4, 2, 49, 50, 32, 32},   {1, 1, 1, 50, 130, 40, 24},  {1, 1, 1, 3, 270, 64, 65},
    {2, 1, 1, 12, 64, 100, 128}, {1, 2, 2, 35, 17, 128, 128}, {1, 1, 1, 17, 65, 192, 256},
    {1, 3, 1, 97, 300, 64, 64},  {1, 1, 1, 6, 1, 255, 1},     {1, 1, 1, 2, 520, 16, 48},
};

void ExpectExact(Problem& p, const std::string& where) {
  const DType dtype = p.args.q.dtype;
  const double unit = Unit(dtype);
  for (int64_t b = 0; b < p.sizes.batch; ++b) {
    for (int64_t h = 0; h < p.sizes.heads_q; ++h) {
      for (int64_t i = 0; i < p.sizes.seqlen_q; ++i) {
        const ExactRow want(p, b, h, i);
        const double lse = static_cast<double>(p.lse.Get(b, h, 0, i));
        const std::string at = where + " at " + std::to_string(b) + ", " + std::to_string(h) +
                               ", " + std::to_string(i);
        if (std::isinf(want.lse)) {
          ASSERT_EQ(lse, want.lse) << at;
        } else {
          ASSERT_NEAR(lse, want.lse, 4e-6 * (4 + std::fabs(want.lse))) << at;
        }
        for (int64_t c = 0; c < p.sizes.dim_v; ++c) {
          const double w = want.out[static_cast<size_t>(c)];
          // The result is rounded once, and bfloat16 weights before they are summed.
          const double weights = dtype == DType::kBFloat16 ? unit : 0.0;
          const double allowed = 1.01 * unit * std::fabs(w) +
                                 (weights + 4e-6) * want.spread[static_cast<size_t>(c)] + 1e-7;
          ASSERT_NEAR(static_cast<double>(p.out.Get(b, h, i, c)), w, allowed) << at << ", " << c;
        }
      }
    }
  }
  EXPECT_TRUE(p.out.memory.GapsUntouched() && p.lse.memory.GapsUntouched()) << where;
}

TEST(AttentionForward, AgreesWithDoubleAtEveryLevel) {
  for (const Isa isa : Levels()) {
    for (const DType dtype : kFloats) {
      for (const Sizes& sizes : kSizes) {
        for (const Option& option : Options()) {
          Problem p(dtype, sizes, 3);
          Data data;
          option.set(sizes, &p.args, &data);
          LaunchRecord record;
          const Status status = p.Run(At(isa, &record));
          ASSERT_TRUE(status.ok()) << status.message();
          ExpectExact(p, std::string(record.variant) + " " + Name(dtype) + " " + sizes.Text() +
                             " " + option.name);
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

TEST(AttentionForward, EveryLevelHasItsVariant) {
  std::set<std::string> names;
  for (const Isa isa : Levels()) {
    Problem p(DType::kBFloat16, {1, 1, 1, 2, 3, 4, 4});
    LaunchRecord record;
    ASSERT_TRUE(p.Run(At(isa, &record)).ok());
    names.insert(record.variant);
  }
  EXPECT_EQ(names.size(), std::min<size_t>(AttentionForwardVariants().size(), Levels().size()));
}

std::vector<unsigned char> Bytes(const Problem& p) {
  std::vector<unsigned char> all = p.out.memory.bytes();
  const std::vector<unsigned char>& lse = p.lse.memory.bytes();
  all.insert(all.end(), lse.begin(), lse.end());
  return all;
}

// The same inputs from tensors of one layout in those of another.
void CopyInputs(const Problem& from, Problem* to) {
  const auto copy = [](const HeadTensor& a, HeadTensor* b) {
    for (int64_t i = 0; i < a.batch(); ++i) {
      for (int64_t h = 0; h < a.heads(); ++h) {
        for (int64_t r = 0; r < a.rows(); ++r) {
          for (int64_t c = 0; c < a.cols(); ++c) b->Set(i, h, r, c, a.Get(i, h, r, c));
        }
      }
    }
  };
  copy(from.q, &to->q);
  copy(from.k, &to->k);
  copy(from.v, &to->v);
}

TEST(AttentionForward, LayoutDoesNotChangeTheResult) {
  for (const Isa isa : Levels()) {
    for (const DType dtype : kFloats) {
      for (const Sizes& sizes : {Sizes{2, 4, 2, 50, 70, 32, 32}, Sizes{2, 2, 1, 13, 40, 24, 17}}) {
        Problem dense(dtype, sizes), by_token(dtype, sizes, 5, true);
        CopyInputs(dense, &by_token);
        ASSERT_TRUE(dense.Run(At(isa)).ok());
        ASSERT_TRUE(by_token.Run(At(isa)).ok());
        EXPECT_TRUE(by_token.out.memory.GapsUntouched());
        for (int64_t b = 0; b < sizes.batch; ++b) {
          for (int64_t h = 0; h < sizes.heads_q; ++h) {
            for (int64_t i = 0; i < sizes.seqlen_q; ++i) {
              ASSERT_EQ(by_token.lse.Get(b, h, 0, i), dense.lse.Get(b, h, 0, i));
              for (int64_t c = 0; c < sizes.dim_v; ++c) {
                ASSERT_EQ(by_token.out.Get(b, h, i, c), dense.out.Get(b, h, i, c));
              }
            }
          }
        }
      }
    }
  }
}

// Keys and values shared by stride 0 give what repeated ones give.
TEST(AttentionForward, ExpandedKeysAndValues) {
  const Sizes repeated{2, 3, 3, 20, 30, 16, 16};
  for (const Isa isa : Levels()) {
    Problem p(DType::kBFloat16, repeated), shared(DType::kBFloat16, repeated);
    for (HeadTensor* t : {&p.k, &p.v}) {
      for (int64_t b = 0; b < 2; ++b) {
        for (int64_t h = 0; h < 3; ++h) {
          for (int64_t r = 0; r < 30; ++r) {
            for (int64_t c = 0; c < 16; ++c) t->Set(b, h, r, c, t->Get(0, 0, r, c));
          }
        }
      }
    }
    CopyInputs(p, &shared);
    for (TensorView* t : {&shared.args.k, &shared.args.v}) t->strides[0] = t->strides[1] = 0;
    ASSERT_TRUE(p.Run(At(isa)).ok());
    ASSERT_TRUE(shared.Run(At(isa)).ok());
    EXPECT_EQ(Bytes(p), Bytes(shared));
  }
}

TEST(AttentionForward, NeitherThreadsNorTheBatchChangeTheResult) {
  for (const Isa isa : Levels()) {
    for (const bool is_causal : {false, true}) {
      const Sizes sizes{3, 4, 2, 120, 200, 64, 64};
      Problem one(DType::kBFloat16, sizes), many(DType::kBFloat16, sizes);
      Problem alone(DType::kBFloat16, {1, 2, 1, 120, 200, 64, 64});
      for (Problem* p : {&one, &many, &alone}) p->args.is_causal = is_causal;
      ASSERT_TRUE(one.Run(At(isa)).ok());
      LaunchContext threads = At(isa);
      threads.num_threads = 5;
      ASSERT_TRUE(many.Run(threads).ok());
      EXPECT_EQ(Bytes(one), Bytes(many));
      // Entry 2, KV head 1 by itself.
      for (HeadTensor* t : {&alone.k, &alone.v}) {
        const HeadTensor& from = t == &alone.k ? one.k : one.v;
        for (int64_t r = 0; r < 200; ++r) {
          for (int64_t c = 0; c < 64; ++c) t->Set(0, 0, r, c, from.Get(2, 1, r, c));
        }
      }
      for (int64_t h = 0; h < 2; ++h) {
        for (int64_t r = 0; r < 120; ++r) {
          for (int64_t c = 0; c < 64; ++c) alone.q.Set(0, h, r, c, one.q.Get(2, 2 + h, r, c));
        }
      }
      ASSERT_TRUE(alone.Run(threads).ok());
      for (int64_t h = 0; h < 2; ++h) {
        for (int64_t r = 0; r < 120; ++r) {
          ASSERT_EQ(alone.lse.Get(0, h, 0, r), one.lse.Get(2, 2 + h, 0, r));
          for (int64_t c = 0; c < 64; ++c) {
            ASSERT_EQ(alone.out.Get(0, h, r, c), one.out.Get(2, 2 + h, r, c));
          }
        }
      }
    }
  }
}

// Hidden keys may hold anything: NaN in k, and in v where no query of a head sees the key.
TEST(AttentionForward, HiddenKeysAreNotLookedAt) {
  const Sizes sizes{1, 2, 1, 40, 90, 32, 32};
  constexpr int64_t kFrom = 5, kTo = 70;  // the visible keys
  for (const Isa isa : Levels()) {
    for (const DType dtype : kFloats) {
      for (const char* kind : {"bool", "additive", "documents", "bool per query"}) {
        Problem clean(dtype, sizes), dirty(dtype, sizes);
        const bool per_query = std::string(kind) == "bool per query";
        const int64_t rows = per_query ? sizes.seqlen_q : 1;
        std::vector<uint8_t> flags;
        std::vector<float> numbers;
        std::vector<int64_t> q_ids(40, 1), k_ids;
        for (int64_t i = 0; i < rows * sizes.seqlen_k; ++i) {
          const int64_t j = i % sizes.seqlen_k;
          const bool visible = j >= kFrom && j < kTo && j != 33;
          flags.push_back(visible);
          numbers.push_back(visible ? 0.25f : -kInfinity);
          if (i < sizes.seqlen_k) k_ids.push_back(visible);
        }
        for (Problem* p : {&clean, &dirty}) {
          if (std::string(kind) == "documents") {
            p->args.q_doc = Dense(q_ids, DType::kInt64, {1, 40});
            p->args.k_doc = Dense(k_ids, DType::kInt64, {1, 90});
          } else if (std::string(kind) == "additive") {
            p->args.mask = Dense(numbers, DType::kFloat32, {1, 1, rows, 90});
          } else {
            p->args.mask = Dense(flags, DType::kBool, {1, 1, rows, 90});
          }
        }
        const bool ends_unread = rows == 1 && std::string(kind) != "documents";
        for (int64_t j = 0; j < sizes.seqlen_k; ++j) {
          if (flags[static_cast<size_t>(j)] != 0) continue;
          for (int64_t c = 0; c < 32; ++c) dirty.k.Set(0, 0, j, c, c % 2 == 0 ? kNaN : kInfinity);
          if (!ends_unread || j == 33) continue;
          for (int64_t c = 0; c < 32; ++c) dirty.v.Set(0, 0, j, c, kNaN);
        }
        ASSERT_TRUE(clean.Run(At(isa)).ok());
        ASSERT_TRUE(dirty.Run(At(isa)).ok());
        EXPECT_EQ(Bytes(clean), Bytes(dirty)) << kind << " " << Name(dtype);
        ExpectExact(clean, kind);
      }
      // Keys beyond the last position.
      Problem clean(dtype, sizes), dirty(dtype, sizes);
      for (int64_t c = 0; c < 32; ++c) dirty.k.Set(0, 0, 89, c, kNaN);
      clean.args.is_causal = dirty.args.is_causal = true;
      ASSERT_TRUE(clean.Run(At(isa)).ok());
      ASSERT_TRUE(dirty.Run(At(isa)).ok());
      for (int64_t i = 0; i < 39; ++i) {
        ASSERT_EQ(clean.out.Get(0, 1, i, 3), dirty.out.Get(0, 1, i, 3));
      }
      EXPECT_TRUE(std::isnan(dirty.out.Get(0, 1, 39, 3)));
    }
  }
}

TEST(AttentionForward, NanReachesItsQueriesOnly) {
  for (const Isa isa : Levels()) {
    for (const DType dtype : kFloats) {
      Problem p(dtype, {1, 2, 2, 30, 60, 16, 16});
      p.q.Set(0, 1, 17, 4, kNaN);
      ASSERT_TRUE(p.Run(At(isa)).ok());
      for (int64_t h = 0; h < 2; ++h) {
        for (int64_t i = 0; i < 30; ++i) {
          const bool hit = h == 1 && i == 17;
          ASSERT_EQ(std::isnan(p.lse.Get(0, h, 0, i)), hit);
          for (int64_t c = 0; c < 16; ++c) ASSERT_EQ(std::isnan(p.out.Get(0, h, i, c)), hit);
        }
      }
      Problem values(dtype, {1, 1, 1, 30, 60, 16, 16});
      values.v.Set(0, 0, 40, 7, kNaN);
      values.v.Set(0, 0, 41, 8, kInfinity);
      ASSERT_TRUE(values.Run(At(isa)).ok());
      for (int64_t i = 0; i < 30; ++i) {
        EXPECT_TRUE(std::isnan(values.out.Get(0, 0, i, 7)));
        EXPECT_EQ(values.out.Get(0, 0, i, 8), kInfinity);
        EXPECT_TRUE(std::isfinite(values.out.Get(0, 0, i, 9)));
        EXPECT_TRUE(std::isfinite(values.lse.Get(0, 0, 0, i)));
      }
    }
  }
}

TEST(AttentionForward, NothingToSee) {
  for (const Isa isa : Levels()) {
    for (const DType dtype : kFloats) {
      for (const bool with_sinks : {false, true}) {
        for (const int64_t keys : {0, 20}) {
          Problem p(dtype, {1, 2, 1, 14, keys, 8, 40});
          const std::vector<uint8_t> hidden(20, 0);
          if (keys > 0) p.args.mask = Dense(hidden, DType::kBool, {1, 1, 1, keys});
          const std::vector<float> sinks = {0.5f, -3.0f};
          if (with_sinks) p.args.sinks = Dense(sinks, DType::kFloat32, {2});
          ASSERT_TRUE(p.Run(At(isa)).ok());
          for (int64_t h = 0; h < 2; ++h) {
            for (int64_t i = 0; i < 14; ++i) {
              const float lse = with_sinks ? sinks[static_cast<size_t>(h)] : -kInfinity;
              if (with_sinks) {
                ASSERT_NEAR(p.lse.Get(0, h, 0, i), lse, 1e-6);
              } else {
                ASSERT_EQ(p.lse.Get(0, h, 0, i), lse);
              }
              for (int64_t c = 0; c < 40; ++c) ASSERT_EQ(p.out.Get(0, h, i, c), 0.0f);
            }
          }
        }
      }
    }
  }
}

// A mask of the lowest float is not -inf: where all keys have it they count the same.
TEST(AttentionForward, LowestFloatMask) {
  for (const Isa isa : Levels()) {
    Problem p(DType::kFloat32, {1, 1, 1, 6, 10, 8, 8});
    const std::vector<float> lowest(60, std::numeric_limits<float>::lowest());
    p.args.mask = Dense(lowest, DType::kFloat32, {1, 1, 6, 10});
    ASSERT_TRUE(p.Run(At(isa)).ok());
    for (int64_t i = 0; i < 6; ++i) {
      for (int64_t c = 0; c < 8; ++c) {
        double mean = 0;
        for (int64_t j = 0; j < 10; ++j) mean += static_cast<double>(p.v.Get(0, 0, j, c)) / 10;
        ASSERT_NEAR(static_cast<double>(p.out.Get(0, 0, i, c)), mean, 1e-6);
      }
    }
  }
}

TEST(AttentionForward, Empty) {
  for (const Sizes& sizes : {Sizes{0, 2, 1, 3, 4, 8, 8}, Sizes{2, 0, 0, 3, 4, 8, 8},
                             Sizes{2, 0, 3, 3, 4, 8, 8}, Sizes{2, 2, 1, 0, 4, 8, 8}}) {
    Problem p(DType::kFloat32, sizes);
    EXPECT_TRUE(p.Run(At(DetectedIsa())).ok());
  }
}

// Strides that reach beyond 2^31 elements: address space that is reserved, hardly any of it used.
TEST(AttentionForward, AddressesBeyond32Bits) {
  constexpr int64_t kFar = (int64_t{1} << 31) + 64;
  constexpr int64_t kRows = 3;
  constexpr size_t kBytes = static_cast<size_t>(kRows * kFar) * sizeof(uint16_t);
  const auto reserve = [] {
    return mmap(nullptr, kBytes, PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  };
  void* far[4] = {reserve(), reserve(), reserve(), reserve()};  // q, k, v, out
  for (void* memory : far) {
    if (memory == MAP_FAILED) GTEST_SKIP() << "cannot reserve address space";
  }
  for (const Isa isa : Levels()) {
    // Far apart: the rows, the heads, the entries.
    for (int dim = 0; dim < 3; ++dim) {
      const Sizes sizes{dim == 0 ? kRows : 1,
                        dim == 1 ? kRows : 1,
                        dim == 1 ? kRows : 1,
                        dim == 2 ? kRows : 1,
                        dim == 2 ? kRows : 1,
                        16,
                        16};
      Problem near(DType::kBFloat16, sizes);
      AttentionForwardArgs args = near.args;
      TensorView* views[4] = {&args.q, &args.k, &args.v, &args.out};
      for (int t = 0; t < 4; ++t) {
        for (int64_t r = 0; r < kRows; ++r) {
          std::memcpy(static_cast<uint16_t*>(far[t]) + r * kFar, views[t]->as<uint16_t>() + r * 16,
                      32);
        }
        views[t]->data = far[t];
        views[t]->strides[dim] = kFar;
      }
      std::vector<float> lse(kRows);
      args.lse.data = lse.data();
      ASSERT_TRUE(near.Run(At(isa)).ok());
      ASSERT_TRUE(AttentionForward(At(isa), args).ok());
      for (int64_t r = 0; r < kRows; ++r) {
        EXPECT_EQ(std::memcmp(static_cast<uint16_t*>(far[3]) + r * kFar,
                              near.args.out.as<uint16_t>() + r * 16, 32),
                  0);
        EXPECT_EQ(lse[static_cast<size_t>(r)], near.args.lse.as<float>()[r]);
      }
    }
  }
  for (void* memory : far) munmap(memory, kBytes);
}

TEST(AttentionForward, HeadDimensionsThatNoKernelServes) {
  for (const Sizes& sizes : {Sizes{1, 1, 1, 2, 3, 257, 8}, Sizes{1, 1, 1, 2, 3, 8, 257},
                             Sizes{1, 1, 1, 2, 3, 0, 8}, Sizes{1, 1, 1, 2, 3, 8, 0}}) {
    Problem p(DType::kFloat32, sizes);
    const Status status = p.Run(At(DetectedIsa()));
    EXPECT_EQ(status.code(), StatusCode::kUnimplemented) << sizes.Text();
  }
  Problem p(DType::kFloat32, {1, 1, 1, 2, 3, 8, 8});
  LaunchContext forced = At(DetectedIsa());
  forced.force_variant = "avx512_bf16";
  EXPECT_EQ(p.Run(forced).code(), StatusCode::kUnimplemented);
}

struct Refusal {
  std::function<void(AttentionForwardArgs*)> spoil;
  StatusCode code;
  const char* part;
};

TEST(AttentionForward, Refusals) {
  using A = AttentionForwardArgs;
  constexpr auto kBad = StatusCode::kInvalidArgument;
  constexpr auto kType = StatusCode::kTypeError;
  static const std::vector<float> numbers(64, 1.0f);
  static const std::vector<int64_t> ids(64, 1);
  const Refusal refusals[] = {
      {[](A* a) { a->q.rank = 3; }, kBad, "'q' must have 4 dimensions, got [1, 4, 3]"},
      {[](A* a) { a->k.shape[0] = 2; }, kBad, "'k' must have shape [1, 2, 5, 8], got [2, 2, 5, 8]"},
      {[](A* a) { a->k.shape[3] = 9; }, kBad, "'k' must have shape [1, 2, 5, 8]"},
      {[](A* a) { a->v.shape[2] = 6; }, kBad, "'v' must have shape [1, 2, 5, 8]"},
      {[](A* a) { a->out.shape[3] = 4; }, kBad, "'out' must have shape [1, 4, 3, 8]"},
      {[](A* a) { a->lse.shape[2] = 4; }, kBad, "'lse' must have shape [1, 4, 3]"},
      {[](A* a) { a->k.shape[1] = a->v.shape[1] = 3; }, kBad, "multiple of k's 3 heads, got 4"},
      {[](A* a) { a->q.strides[3] = 2; }, kBad, "'q' must have a dense last dimension"},
      {[](A* a) { a->out.strides[3] = 2; }, kBad, "'out' must have a dense last dimension"},
      {[](A* a) { a->q.dtype = DType::kInt8; }, kType, "'q' must have dtype float32, float16 or"},
      {[](A* a) { a->v.dtype = DType::kFloat16; }, kType, "'v' must have dtype float32, got"},
      {[](A* a) { a->lse.dtype = DType::kFloat16; }, kType, "'lse' must have dtype float32"},
      {[](A* a) { a->mask = Dense(numbers, DType::kFloat32, {1, 1, 3, 6}); }, kBad,
       "'mask' must broadcast to [1, 4, 3, 5], got [1, 1, 3, 6]"},
      {[](A* a) { a->mask = Dense(numbers, DType::kFloat32, {1, 1, 1, 3, 5}); }, kBad, "broadcast"},
      {[](A* a) { a->mask = Dense(numbers, DType::kInt32, {3, 5}); }, kType,
       "'mask' must have dtype bool, float32 or float32, got int32"},
      {[](A* a) { a->alibi_slopes = Dense(numbers, DType::kFloat32, {2}); }, kBad,
       "'alibi_slopes' must have shape [4], got [2]"},
      {[](A* a) { a->alibi_slopes = Dense(numbers, DType::kFloat32, {4, 1}); }, kBad,
       "'alibi_slopes' must have shape [1, 4], got [4, 1]"},
      {[](A* a) { a->sinks = Dense(numbers, DType::kFloat32, {3}); }, kBad,
       "'sinks' must have shape [4], got [3]"},
      {[](A* a) { a->sinks = Dense(numbers, DType::kBFloat16, {4}); }, kType, "'sinks'"},
      {[](A* a) { a->q_doc = Dense(ids, DType::kInt64, {1, 3}); }, kBad,
       "'k_doc' must be given together with 'q_doc', got None"},
      {[](A* a) { a->k_doc = Dense(ids, DType::kInt64, {1, 5}); }, kBad, "'q_doc' must be given"},
      {[](A* a) {
         a->q_doc = Dense(ids, DType::kInt64, {1, 3});
         a->k_doc = Dense(ids, DType::kInt32, {1, 5});
       },
       kType, "'k_doc' must have dtype int64, got int32"},
      {[](A* a) { a->q_doc = a->k_doc = Dense(ids, DType::kInt64, {1, 5}); }, kBad,
       "'q_doc' must have shape [1, 3], got [1, 5]"},
      {[](A* a) { a->out.data = a->q.as<float>() + 8; }, kBad, "'out' overlaps 'q' in memory"},
      {[](A* a) { a->lse.data = a->v.data; }, kBad, "'lse' overlaps 'v' in memory"},
      {[](A* a) { a->lse.data = a->out.data; }, kBad, "'out' overlaps 'lse' in memory"},
      {[](A* a) { a->out.strides[1] = 0; }, kBad, "'out' must not overlap itself"},
      {[](A* a) { a->lse.strides[2] = 0; }, kBad, "'lse' must not overlap itself"},
      {[](A* a) { a->softcap = -1.0f; }, kBad, "'softcap' must be finite and not negative"},
      {[](A* a) { a->softcap = kNaN; }, kBad, "'softcap'"},
      {[](A* a) { a->softcap = kInfinity; }, kBad, "'softcap'"},
      {[](A* a) { a->scale = kNaN; }, kBad, "'scale' must be finite"},
      {[](A* a) { a->window_left = -2; }, kBad, "'window_left' must be -1 (no limit) or more"},
      {[](A* a) { a->window_right = -3; }, kBad, "'window_right' must be -1"},
      {[](A* a) { a->prefix_len = -1; }, kBad, "'prefix_len' must not be negative, got -1"},
  };
  for (const Refusal& refusal : refusals) {
    Problem p(DType::kFloat32, {1, 4, 2, 3, 5, 8, 8});
    const std::vector<unsigned char> before = Bytes(p);
    refusal.spoil(&p.args);
    const Status status = p.Run(At(DetectedIsa()));
    EXPECT_EQ(status.code(), refusal.code) << status.message();
    EXPECT_EQ(status.message().rfind("attention_forward: argument ", 0), 0u) << status.message();
    EXPECT_NE(status.message().find(refusal.part), std::string::npos) << status.message();
    EXPECT_EQ(Bytes(p), before) << "something was written: " << refusal.part;
  }
}

}  // namespace
}  // namespace kpt::cpu

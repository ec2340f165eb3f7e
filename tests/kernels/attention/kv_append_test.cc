// kv_append and kv_append_quantize: every instruction set, dtype and format of cache against the
// same arithmetic in scalar code; what stays; pages; refusals that write nothing.
#include "kernels/attention/kv_append.h"

#include <algorithm>
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
using testing_util::HeadTensor;
using testing_util::kFloats;
using testing_util::Levels;

constexpr int64_t kBatch = 2, kHeads = 3, kTokens = 5, kCapacity = 12, kDim = 40, kDimV = 71;
constexpr int64_t kPairs = 9;
constexpr unsigned char kOld = 0x2a;

// New tokens, caches in bytes of kOld, and scales of one byte caches.
struct Append {
  Append(DType dtype, DType cache, bool measured, bool paged)
      : k(dtype, kBatch, kHeads, kTokens, kDim, 3, true),
        v(dtype, kBatch, kHeads, kTokens, kDimV, 1),
        lens{7, 12},
        first(paged ? kBatch * kCapacity / 4 + 1 : kBatch),
        rows(paged ? 4 : kCapacity) {
    std::mt19937 random(3);
    k.memory.Fill(&random, 0.0f, 1.0f);
    v.memory.Fill(&random, 0.5f, 2.0f);
    for (int64_t i = 0; i < kBatch * kTokens * kPairs; ++i) {
      cos.push_back(std::cos(0.1f * static_cast<float>(i)));
      sin.push_back(std::sin(0.1f * static_cast<float>(i)));
    }
    const auto bytes = [&](int64_t dim) {
      return static_cast<size_t>(first * kHeads * rows * dim * ItemSize(cache));
    };
    k_cache.assign(bytes(kDim), kOld);
    v_cache.assign(bytes(kDimV), kOld);
    scales.assign(static_cast<size_t>(first * kHeads * rows), 0.02f);
    v_scales = scales;
    for (int32_t i = 0; i < kBatch * kCapacity / 4; ++i) table.push_back((i * 5 + 2) % 7);
    args.k = k.view();
    args.v = v.view();
    args.k_cache = Dense(k_cache, cache, {first, kHeads, rows, kDim});
    args.v_cache = Dense(v_cache, cache, {first, kHeads, rows, kDimV});
    static_cast<TensorView&>(args.out_k) = args.k_cache;
    static_cast<TensorView&>(args.out_v) = args.v_cache;
    args.seq_lens = Dense(lens, DType::kInt64, {kBatch});
    if (paged) args.block_table = Dense(table, DType::kInt32, {kBatch, kCapacity / 4});
    if (ItemSize(cache) > 1) return;
    args.k_scale = Dense(scales, DType::kFloat32, {first, kHeads, rows});
    args.v_scale = Dense(v_scales, DType::kFloat32, {first, kHeads, rows});
    if (!measured) return;
    static_cast<TensorView&>(args.out_k_scale) = args.k_scale;
    static_cast<TensorView&>(args.out_v_scale) = args.v_scale;
  }

  void Rotate(bool interleaved) {
    args.cos = Dense(cos, DType::kFloat32, {kBatch, kTokens, kPairs});
    args.sin = Dense(sin, DType::kFloat32, {kBatch, kTokens, kPairs});
    args.interleaved = interleaved;
  }

  bool measured() const { return args.out_k_scale.present(); }
  Status Run(const LaunchContext& ctx) {
    return measured() ? KvAppendQuantize(ctx, args) : KvAppend(ctx, args);
  }

  // The row of a cache that token i of entry b goes to.
  int64_t Place(int64_t b, int64_t h, int64_t i) const {
    const int64_t position = lens[static_cast<size_t>(b)] - kTokens + i;
    if (!args.block_table.present()) return (b * kHeads + h) * rows + position;
    const int64_t page = table[static_cast<size_t>(b * kCapacity / 4 + position / 4)];
    return (page * kHeads + h) * rows + position % 4;
  }

  HeadTensor k, v;
  std::vector<int64_t> lens;
  std::vector<int32_t> table;
  int64_t first, rows;
  std::vector<float> cos, sin, scales, v_scales;
  std::vector<unsigned char> k_cache, v_cache;
  KvAppendArgs args;
};

float Decoded(const unsigned char* p, DType dtype) {
  if (dtype == DType::kInt8) return static_cast<float>(static_cast<int8_t>(*p));
  if (dtype == DType::kFloat8E4M3FN) return E4M3FN::Decode(*p);
  if (dtype == DType::kFloat32) {
    float x;
    std::memcpy(&x, p, sizeof(x));
    return x;
  }
  uint16_t code;
  std::memcpy(&code, p, sizeof(code));
  return dtype == DType::kFloat16 ? DecodeHalf(code) : DecodeBf16(code);
}

// How far a stored number may lie from the exact one: half a step, and what turning costs.
double Slack(DType dtype, double x) {
  if (dtype == DType::kInt8) return 0.5 + 1e-4;
  const double step = dtype == DType::kFloat8E4M3FN ? 0x1p-4 : 2 * testing_util::Unit(dtype);
  return std::max(std::fabs(x), 0x1p-6) * step + 1e-6;
}

// Every row of one side; takes away the bytes that were written.
void Check(Append* a, bool keys, const std::string& where) {
  const HeadTensor& in = keys ? a->k : a->v;
  std::vector<unsigned char>& cache = keys ? a->k_cache : a->v_cache;
  const std::vector<float>& scales = keys ? a->scales : a->v_scales;
  const DType dtype = a->args.k_cache.dtype;
  const double most = dtype == DType::kInt8 ? 127.0 : dtype == DType::kFloat8E4M3FN ? 448.0 : 1e30;
  const int64_t dim = in.cols(), size = ItemSize(dtype);
  for (int64_t b = 0; b < kBatch; ++b) {
    for (int64_t h = 0; h < kHeads; ++h) {
      for (int64_t i = 0; i < kTokens; ++i) {
        std::vector<double> x;
        for (int64_t c = 0; c < dim; ++c) x.push_back(static_cast<double>(in.Get(b, h, i, c)));
        for (int64_t p = 0; keys && a->args.cos.present() && p < kPairs; ++p) {
          const auto at = static_cast<size_t>((b * kTokens + i) * kPairs + p);
          const double c = static_cast<double>(a->cos[at]), s = static_cast<double>(a->sin[at]);
          const size_t first = static_cast<size_t>(a->args.interleaved ? 2 * p : p);
          const size_t second = a->args.interleaved ? first + 1 : first + kPairs;
          const double u = x[first], w = x[second];
          x[first] = u * c - w * s;
          x[second] = w * c + u * s;
        }
        double largest = 0.0;
        for (const double e : x) largest = std::max(largest, std::fabs(e));
        const int64_t place = a->Place(b, h, i);
        double scale = 1.0;
        if (size == 1) scale = static_cast<double>(scales[static_cast<size_t>(place)]);
        if (a->measured()) {
          ASSERT_NEAR(scale, largest / most, 1e-6 * scale) << where;
        }
        for (int64_t c = 0; c < dim; ++c) {
          const double want = std::clamp(x[static_cast<size_t>(c)] / scale, -most, most);
          unsigned char* p = cache.data() + (place * dim + c) * size;
          ASSERT_NEAR(static_cast<double>(Decoded(p, dtype)), want, Slack(dtype, want))
              << where << (keys ? " k " : " v ") << b << ", " << h << ", " << i << ", " << c;
          std::fill(p, p + size, kOld);
        }
      }
    }
  }
  EXPECT_TRUE(std::all_of(cache.begin(), cache.end(), [](auto byte) { return byte == kOld; }))
      << where << ": something else was written";
}

TEST(KvAppend, StoresWhatScalarCodeDoes) {
  for (const Isa isa : Levels()) {
    for (const DType dtype : kFloats) {
      for (const DType cache : {dtype, DType::kInt8, DType::kFloat8E4M3FN}) {
        for (const bool measured : {false, true}) {
          if (measured && ItemSize(cache) > 1) continue;
          for (const int turn : {0, 1, 2}) {
            for (const bool paged : {false, true}) {
              Append a(dtype, cache, measured, paged);
              if (turn > 0) a.Rotate(turn == 2);
              LaunchContext ctx;
              ctx.isa = isa;
              ctx.num_threads = turn + 1;
              const Status status = a.Run(ctx);
              ASSERT_TRUE(status.ok()) << status.message();
              const std::string where = std::string(Name(isa)) + " " + Name(dtype) + " to " +
                                        Name(cache) + (measured ? " measured" : "") +
                                        (paged ? " paged" : "") + " turn " + std::to_string(turn);
              Check(&a, true, where);
              Check(&a, false, where);
            }
          }
        }
      }
    }
  }
}

TEST(KvAppend, ElsewhereTheWholeCacheIsCopied) {
  Append in_place(DType::kFloat32, DType::kInt8, true, false);
  Append apart(DType::kFloat32, DType::kInt8, true, false);
  std::vector<unsigned char> k(apart.k_cache.size()), v(apart.v_cache.size());
  std::vector<float> k_scale(apart.scales.size()), v_scale(apart.scales.size());
  apart.args.out_k.data = k.data();
  apart.args.out_v.data = v.data();
  apart.args.out_k_scale.data = k_scale.data();
  apart.args.out_v_scale.data = v_scale.data();
  LaunchContext ctx;
  ctx.isa = DetectedIsa();
  ctx.num_threads = 2;
  ASSERT_TRUE(in_place.Run(ctx).ok());
  ASSERT_TRUE(apart.Run(ctx).ok());
  EXPECT_EQ(k, in_place.k_cache);
  EXPECT_EQ(v, in_place.v_cache);
  EXPECT_EQ(k_scale, in_place.scales);
  EXPECT_EQ(v_scale, in_place.v_scales);
  EXPECT_NE(k, apart.k_cache);
}

TEST(KvAppend, RefusedCallsWriteNothing) {
  const auto refused = [](auto&& change, const char* word) {
    Append a(DType::kFloat32, DType::kFloat32, false, true);
    change(&a);
    LaunchContext ctx;
    ctx.isa = DetectedIsa();
    const Status status = a.Run(ctx);
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << word;
    EXPECT_NE(status.message().find(word), std::string::npos) << status.message();
    for (const auto& cache : {a.k_cache, a.v_cache}) {
      EXPECT_TRUE(std::all_of(cache.begin(), cache.end(), [](auto b) { return b == kOld; }));
    }
  };
  refused([](Append* a) { a->lens[1] = kCapacity + 1; }, "seq_lens");
  refused([](Append* a) { a->lens[1] = kTokens - 1; }, "seq_lens");
  refused([](Append* a) { a->lens[1] = INT64_MIN; }, "seq_lens");
  refused([](Append* a) { a->table[5] = 7; }, "block_table");
  refused([](Append* a) { a->table[5] = -1; }, "block_table");
  refused([](Append* a) { a->table[5] = a->table[1]; }, "each page once");
  refused([](Append* a) { a->args.out_v.data = a->args.out_k.data; }, "overlaps");
  refused([](Append* a) { a->Rotate(false), a->args.sin = TensorView(); }, "sin");
}

}  // namespace
}  // namespace kpt::cpu

// attention_decode and attention_paged: their CUDA kernels in emulation (not run on a GPU), against
// float64.
#include <algorithm>
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/attention/cuda/decode_kernels.h"
#include "kernels/base/float_codec.h"
#include "tests/kernels/gpu_emulated/attention_reference.h"
#include "tests/kernels/gpu_emulated/emulated_testing.h"

namespace kpt::emulated {
namespace {

using emulated_testing::Context;
using emulated_testing::Tensor4;

// A cache [places, heads, rows, dim + gap] of any dtype.
struct Cache {
  DType dtype;
  int64_t heads, rows, dim, gap;
  std::vector<uint8_t> bytes;
  std::vector<float> scale;  // [places, heads, rows], or empty

  Cache(DType t, int64_t places, int64_t h, int64_t r, int64_t d, int64_t g, bool scaled,
        std::mt19937* random)
      : dtype(t), heads(h), rows(r), dim(d), gap(g) {
    const int64_t all = places * h * r * (d + g);
    bytes.assign(static_cast<size_t>(all * ItemSize(t)), 0);
    std::normal_distribution<float> normal;
    for (int64_t i = 0; i < all; ++i) {
      const float x = normal(*random);
      if (t == DType::kInt8) {
        const float code = std::fmin(std::fmax(std::nearbyint(40.0f * x), -128.0f), 127.0f);
        bytes[static_cast<size_t>(i)] = static_cast<uint8_t>(static_cast<int8_t>(code));
      } else if (t == DType::kFloat8E4M3FN) {
        bytes[static_cast<size_t>(i)] = static_cast<uint8_t>(E4M3FN::Encode(x, true));
      } else {
        const uint16_t code = t == DType::kFloat16 ? EncodeHalf(x) : EncodeBf16(x);
        std::memcpy(bytes.data() + 2 * i, &code, 2);
      }
    }
    for (int64_t i = 0; scaled && i < places * h * r; ++i) {
      scale.push_back((t == DType::kInt8 ? 0.025f : 1.0f) * (1.0f + 0.1f * (i % 5)));
    }
  }
  double Get(int64_t place, int64_t h, int64_t r, int64_t d) const {
    const int64_t i = ((place * heads + h) * rows + r) * (dim + gap) + d;
    double x;
    if (dtype == DType::kInt8) {
      x = static_cast<int8_t>(bytes[static_cast<size_t>(i)]);
    } else if (dtype == DType::kFloat8E4M3FN) {
      x = E4M3FN::Decode(bytes[static_cast<size_t>(i)]);
    } else {
      uint16_t code;
      std::memcpy(&code, bytes.data() + 2 * i, 2);
      x = dtype == DType::kFloat16 ? DecodeHalf(code) : DecodeBf16(code);
    }
    return scale.empty() ? x : x * scale[static_cast<size_t>((place * heads + h) * rows + r)];
  }
  DecodeCache view() const {
    DecodeCache c{};
    c.data = bytes.data();
    c.stride = {heads * rows * (dim + gap), rows * (dim + gap), dim + gap};
    if (!scale.empty()) c.scale = scale.data(), c.scale_stride = {heads * rows, rows, 1};
    return c;
  }
};

struct Case {
  DType dtype = DType::kBFloat16, cache = DType::kBFloat16;
  int64_t heads_q = 4, heads_kv = 2, seqlen_q = 1, dim = 64, dim_v = 64, page = 0, gap = 0;
  std::vector<int64_t> lengths = {70};
  int64_t capacity = 400, window = -1;
  float softcap = 0.0f;
  bool scaled = false, alibi = false, sinks = false;
  int num_sms = 3;
};

// The result, and the problem's check against float64.
std::vector<uint16_t> Check(const Case& c, const std::string& where) {
  std::mt19937 random(5);
  const int64_t batch = static_cast<int64_t>(c.lengths.size());
  Tensor4 q(c.dtype, batch, c.heads_q, c.seqlen_q, c.dim, c.gap);
  Tensor4 out(c.dtype, batch, c.heads_q, c.seqlen_q, c.dim_v, c.gap);
  q.Fill(&random, 1.0f);
  const int64_t pages = c.page > 0 ? (c.capacity + c.page - 1) / c.page : 0;
  const int64_t places = c.page > 0 ? batch * pages : batch;
  const int64_t rows = c.page > 0 ? c.page : c.capacity;
  const Cache k(c.cache, places, c.heads_kv, rows, c.dim, c.gap, c.scaled, &random);
  const Cache v(c.cache, places, c.heads_kv, rows, c.dim_v, c.gap, c.scaled, &random);
  std::vector<int32_t> table;
  for (int64_t i = 0; i < batch * pages; ++i) table.push_back(static_cast<int32_t>(i));
  std::shuffle(table.begin(), table.end(), random);
  std::vector<float> slopes, sinks;
  for (int64_t h = 0; h < c.heads_q; ++h) {
    slopes.push_back(0.3f / static_cast<float>(h + 1));
    sinks.push_back(0.5f * static_cast<float>(h) - 1.0f);
  }
  DecodeProblem p{};
  p.q = q.bits.data(), p.out = out.bits.data();
  p.q_stride = q.strides(), p.out_stride = out.strides();
  p.dtype = c.dtype, p.cache_dtype = c.cache;
  p.k = k.view(), p.v = v.view();
  p.seq_lens = c.lengths.data(), p.seq_lens_dtype = DType::kInt64, p.seq_lens_stride = 1;
  p.capacity = c.page > 0 ? pages * c.page : c.capacity;
  if (c.page > 0) {
    p.block_table = table.data(), p.table_batch = pages, p.table_page = 1;
    p.page_size = c.page, p.num_pages = places;
  }
  p.batch = batch, p.heads_q = c.heads_q, p.heads_kv = c.heads_kv, p.seqlen_q = c.seqlen_q;
  p.dim_qk = c.dim, p.dim_v = c.dim_v;
  p.scale = 1.0f / std::sqrt(static_cast<float>(c.dim));
  p.softcap = c.softcap;
  p.window_left = c.window;
  if (c.alibi) p.alibi = slopes.data(), p.alibi_stride = 1;
  if (c.sinks) p.sinks = sinks.data(), p.sinks_stride = 1;

  GpuDevice device = emulated_testing::Device();
  device.num_sms = c.num_sms;
  LaunchContext ctx = Context();
  ctx.device = &device;
  std::vector<float> workspace(static_cast<size_t>(PlanDecode(device, p).workspace_bytes() / 4),
                               NAN);
  ctx.workspace = workspace.data();
  const int64_t dim = std::max(c.dim, c.dim_v);
  Status status = dim <= 64    ? DecodePieces64(ctx, p)
                  : dim <= 128 ? DecodePieces128(ctx, p)
                               : DecodePieces256(ctx, p);
  if (status.ok()) status = DecodeCombine(ctx, p);
  EXPECT_TRUE(status.ok()) << where << ": " << status.message();

  const double unit = c.dtype == DType::kFloat16 ? 0x1p-11 : 0x1p-8;
  for (int64_t b = 0; b < batch; ++b) {
    const int64_t length = c.lengths[static_cast<size_t>(b)];
    const bool wrong = length < 0 || length > p.capacity;
    for (int64_t h = 0; h < c.heads_q; ++h) {
      const int64_t kv = h / (c.heads_q / c.heads_kv);
      for (int64_t i = 0; i < c.seqlen_q; ++i) {
        const int64_t position = length - c.seqlen_q + i;
        std::vector<double> s;
        double most = c.sinks ? sinks[static_cast<size_t>(h)] : -INFINITY;
        const auto place = [&](int64_t j, int64_t* row) {
          *row = c.page > 0 ? j % c.page : j;
          return c.page > 0 ? table[static_cast<size_t>(b * pages + j / c.page)] : b;
        };
        for (int64_t j = 0; !wrong && j < length; ++j) {
          s.push_back(-INFINITY);
          if (j > position || (c.window >= 0 && j < position - c.window)) continue;
          int64_t row;
          const int64_t at = place(j, &row);
          double dot = 0.0;
          for (int64_t d = 0; d < c.dim; ++d) dot += q.Get(b, h, i, d) * k.Get(at, kv, row, d);
          dot *= p.scale;
          if (c.softcap > 0.0f) dot = c.softcap * std::tanh(dot / c.softcap);
          if (c.alibi) {
            dot -= slopes[static_cast<size_t>(h)] * static_cast<double>(position - j);
          }
          s.back() = dot;
          most = std::fmax(most, dot);
        }
        double sum = c.sinks ? std::exp(sinks[static_cast<size_t>(h)] - most) : 0.0;
        for (double& x : s) {
          x = x == -INFINITY ? 0.0 : std::exp(x - most);
          sum += x;
        }
        for (int64_t d = 0; d < c.dim_v; ++d) {
          double want = 0.0, size = 0.0;
          for (size_t j = 0; j < s.size(); ++j) {
            if (s[j] == 0.0) continue;
            int64_t row;
            const int64_t at = place(static_cast<int64_t>(j), &row);
            want += s[j] / sum * v.Get(at, kv, row, d);
            size += s[j] / sum * std::fabs(v.Get(at, kv, row, d));
          }
          const double got = out.Get(b, h, i, d);
          const std::string at = where + " at " + std::to_string(b) + ", " + std::to_string(h) +
                                 ", " + std::to_string(i) + ", " + std::to_string(d);
          if (wrong) {
            EXPECT_TRUE(std::isnan(got)) << at;
          } else if (std::fabs(got - want) > unit * (std::fabs(want) + size) + 1e-6) {
            ADD_FAILURE() << at << ": " << got << " instead of " << want;
            return {};
          }
        }
      }
    }
  }
  EXPECT_TRUE(out.GapsUntouched()) << where;
  return out.bits;
}

TEST(EmulatedAttentionDecode, TypesOfTheCache) {
  for (DType dtype : {DType::kBFloat16, DType::kFloat16}) {
    for (DType cache : {dtype, DType::kInt8, DType::kFloat8E4M3FN}) {
      for (int64_t page : {0, 8, 48}) {
        for (bool aligned : {true, false}) {
          Case c;
          c.dtype = dtype, c.cache = cache, c.page = page;
          c.scaled = cache != dtype;
          c.lengths = {1, 300, 64};
          if (!aligned) c.dim = 33, c.dim_v = 17, c.gap = 2;
          Check(c, std::string(Name(cache)) + " pages of " + std::to_string(page));
        }
      }
    }
  }
}

TEST(EmulatedAttentionDecode, HeadSizes) {
  for (const auto& [dim, dim_v] :
       std::vector<std::pair<int64_t, int64_t>>{{128, 128}, {96, 64}, {256, 256}, {192, 128}}) {
    for (DType cache : {DType::kBFloat16, DType::kInt8}) {
      Case c;
      c.dim = dim, c.dim_v = dim_v, c.cache = cache, c.scaled = cache == DType::kInt8;
      Check(c, std::to_string(dim) + "/" + std::to_string(dim_v) + " " + Name(cache));
    }
  }
}

TEST(EmulatedAttentionDecode, TokensAndGroups) {
  for (int64_t tokens : {1, 3, 8}) {
    for (int64_t group : {1, 3, 8}) {
      Case c;
      c.seqlen_q = tokens, c.heads_q = 2 * group;
      c.lengths = {130, tokens};
      Check(c, std::to_string(tokens) + " tokens, groups of " + std::to_string(group));
    }
  }
}

TEST(EmulatedAttentionDecode, Options) {
  for (int option = 0; option < 5; ++option) {
    Case c;
    c.seqlen_q = 4, c.lengths = {100, 333, 0, 2}, c.capacity = 340;
    if (option == 0 || option == 4) c.softcap = 2.0f;
    if (option == 1 || option == 4) c.alibi = true;
    if (option == 2 || option == 4) c.sinks = true;
    if (option == 3 || option == 4) c.window = 150;
    Check(c, "option " + std::to_string(option));
  }
}

TEST(EmulatedAttentionDecode, LengthsOutOfRangeGiveNan) {
  Case c;
  c.lengths = {401, -1, 400};
  Check(c, "lengths");
}

TEST(EmulatedAttentionDecode, BitsDoNotDependOnTheNumberOfBlocks) {
  Case c;
  c.lengths = {1500}, c.capacity = 1600, c.heads_kv = 1;
  const std::vector<uint16_t> few = Check(c, "few");
  c.num_sms = 1;
  EXPECT_EQ(Check(c, "one"), few);
  gpu::emulator::SetSeed(9);
  c.num_sms = 100;
  EXPECT_EQ(Check(c, "many"), few);
}

}  // namespace
}  // namespace kpt::emulated

// attention_decode on a GPU, its second kernel: the pieces of each row, put together in order. A
// warp a row; what it reads is a few hundredths of the cache that was read before, and still in the
// second-level cache.
#include "kernels/attention/cuda/decode_entry.h"
#include "kernels/base/gpu/launch.h"
#include "kernels/base/gpu/row_tiling.h"

namespace kpt::KPT_BACKEND {
namespace {

using namespace gpu;  // NOLINT: the vocabulary of kernels

constexpr int kThreads = 128;

struct CombineParams {
  DecodeProblem problem;
  int64_t row_tiles, pieces, row_floats;
  const float* results;
};

template <class T>
KPT_KERNEL(kThreads)
DecodeCombineKernel(KPT_PARAMS(CombineParams) params) {
  const DecodeProblem& p = params.problem;
  const int lane = ThreadIndex() % 32;
  const int64_t group = p.heads_q / p.heads_kv;
  const int64_t rows = group * p.seqlen_q;
  const int64_t total = p.batch * p.heads_kv * rows;
  for (int64_t i = BlockIndex() * (kThreads / 32) + ThreadIndex() / 32; i < total;
       i += GridBlocks() * (kThreads / 32)) {
    const int64_t of_kv = i / rows, row = i - of_kv * rows;
    const int64_t batch = of_kv / p.heads_kv, head_kv = of_kv - batch * p.heads_kv;
    const int64_t head = head_kv * group + row / p.seqlen_q;
    const DecodeEntry entry = DecodeEntryOf(p, batch, params.pieces);
    const float* const results = params.results + ((of_kv * params.row_tiles + row / kDecodeRows) *
                                                       params.pieces * kDecodeRows +
                                                   row % kDecodeRows) *
                                                      params.row_floats;
    const int64_t step = kDecodeRows * params.row_floats;  // from piece to piece
    float most = NegativeInfinity(), sum = 0.0f;
    for (int piece = 0; piece < entry.pieces; ++piece) {
      most = MaxOf(most, results[piece * step]);
    }
    float sink = NegativeInfinity();
    if (p.sinks != nullptr) sink = p.sinks[head * p.sinks_stride] * kLog2E;
    most = MaxOf(most, sink);
    const float base = most == NegativeInfinity() ? 0.0f : most;
    for (int piece = 0; piece < entry.pieces; ++piece) {
      sum += results[piece * step + 1] * FastExp2(results[piece * step] - base);
    }
    if (p.sinks != nullptr) sum += FastExp2(sink - base);
    float inverse = sum == 0.0f ? 0.0f : 1.0f / sum;
    if (!entry.valid) inverse = BitsToFloat(0x7fc00000u);
    T* const out = static_cast<T*>(p.out) + batch * p.out_stride.batch + head * p.out_stride.head +
                   row % p.seqlen_q * p.out_stride.row;
    for (int64_t d = lane; d < p.dim_v; d += 32) {
      float x = 0.0f;
      for (int piece = 0; piece < entry.pieces; ++piece) {
        x += results[piece * step + 2 + d] * FastExp2(results[piece * step] - base);
      }
      out[d] = Rounded(x * inverse, T());
    }
  }
}

}  // namespace

Status DecodeCombine(const LaunchContext& ctx, const DecodeProblem& p) {
  const DecodeWork work = PlanDecode(*ctx.device, p);
  CombineParams params = {};
  params.problem = p;
  params.row_tiles = work.row_tiles;
  params.pieces = work.pieces;
  params.row_floats = work.row_floats;
  params.results = static_cast<const float*>(ctx.workspace);
  const int64_t rows = p.batch * p.heads_q * p.seqlen_q;
  const int64_t blocks = (rows + kThreads / 32 - 1) / (kThreads / 32);
  return Launch(
      "attention_decode", "decode_combine",
      p.dtype == DType::kFloat16 ? DecodeCombineKernel<Float16> : DecodeCombineKernel<BFloat16>,
      blocks < kMaxBlocks ? blocks : kMaxBlocks, kThreads, ctx, params);
}

}  // namespace kpt::KPT_BACKEND

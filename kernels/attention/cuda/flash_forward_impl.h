// The kernel of attention_forward for every NVIDIA GPU since sm_80: an online softmax over blocks
// of keys ("FlashAttention-2", Dao 2023), products by mma.sync, keys and values by cp.async into
// two buffers in turn. Included by one file for each size of head, since together they would
// compile for minutes.
//
// A warp has 16 rows from beginning to end: scores, weights and sums stay in its registers. Blocks
// of keys that no row of the tile sees are not loaded (position rules, documents), those that no
// row of the warp sees are not multiplied (also masks). What a row gets depends neither on its tile
// nor on the number of warps: every row takes the blocks of keys in the same order, and one that it
// does not see changes nothing.
//
// Predicted at 16384 causal tokens of 16 heads of 128 in bfloat16, 1.1 TFLOP: on an H200 4.1 ms,
// 270 TFLOP/s; on an A100 7.9 ms, 140. For 64 keys the 8 warps of a multiprocessor make 4.2 MFLOP:
// on Hopper 3200 cycles of mma.sync (which reaches about 0.6 of what wgmma does), on Ampere 4100;
// the 256 KB that ldmatrix reads meanwhile take 2000 of shared memory, beneath them; about 900 of
// exponentials and rescaling overlap with other warps' products in part.
#ifndef KPT_KERNELS_ATTENTION_CUDA_FLASH_FORWARD_IMPL_H_
#define KPT_KERNELS_ATTENTION_CUDA_FLASH_FORWARD_IMPL_H_

#include "kernels/attention/cuda/flash_forward_kernels.h"
#include "kernels/attention/cuda/key_blocks.h"
#include "kernels/attention/cuda/score_rules.h"
#include "kernels/attention/cuda/tiles.h"
#include "kernels/base/gpu/launch.h"
#include "kernels/base/gpu/row_tiling.h"

namespace kpt::KPT_BACKEND {
namespace {

using namespace gpu;  // NOLINT: the vocabulary of kernels

struct FlashForwardParams {
  FlashProblem problem;
  FlashForwardWork work;
  bool aligned;  // rows of q, k and v are 16-byte pieces
  bool pairs;    // pairs of elements of out are 4-byte pieces
};

// One tile of rows of one key head.
struct FlashTile {
  int64_t batch, head_kv;
  int first_row;
};

// Longest first: under a causal mask the last tiles see the most keys.
KPT_DEVICE FlashTile TileOf(const FlashForwardParams& p, int64_t index) {
  const FlashForwardWork& w = p.work;
  const int64_t section = index / (w.section * w.tiles);
  const int64_t first_head = section * w.section;
  const int64_t heads = w.heads - first_head < w.section ? w.heads - first_head : w.section;
  const int64_t rest = index - section * w.section * w.tiles;
  const int64_t tile = rest / heads;
  const int64_t head = first_head + (rest - tile * heads);
  FlashTile t;
  t.batch = head / p.problem.heads_kv;
  t.head_kv = head - t.batch * p.problem.heads_kv;
  t.first_row = static_cast<int>(w.tiles - 1 - tile) * 16 * w.warps;
  return t;
}

// The softmax of 16 rows so far; a thread has two of them.
template <int kDimV>
struct RowState {
  float max[2] = {NegativeInfinity(), NegativeInfinity()};
  float sum[2] = {0.0f, 0.0f};  // of this thread's keys alone
  float out[kDimV / 8][4] = {};
};

// Scores become weights relative to the new maximum; what was before is rescaled.
template <int kKeys, int kDimV>
KPT_DEVICE void Accumulate(float (&s)[kKeys / 8][4], RowState<kDimV>* state) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float most = state->max[r];
#pragma unroll
    for (int n = 0; n < kKeys / 8; ++n) {
      most = MaxOf(most, MaxOf(s[n][2 * r], s[n][2 * r + 1]));
    }
    most = QuadMax(most);
    // A row that has seen no key yet has no maximum to be relative to.
    const float base = most == NegativeInfinity() ? 0.0f : most;
    const float factor = FastExp2(state->max[r] - base);
    state->max[r] = most;
    float sum = 0.0f;
#pragma unroll
    for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        s[n][2 * r + e] = FastExp2(s[n][2 * r + e] - base);
        sum += s[n][2 * r + e];
      }
    }
    state->sum[r] = state->sum[r] * factor + sum;
#pragma unroll
    for (int n = 0; n < kDimV / 8; ++n) {
      state->out[n][2 * r] *= factor;
      state->out[n][2 * r + 1] *= factor;
    }
  }
}

template <class T, int kDim, int kDimV, bool kTerms>
KPT_KERNEL(32 * FlashForwardTiles<kDim, kDimV>::kMaxWarps, 1)
FlashForwardKernel(KPT_PARAMS(FlashForwardParams) params) {
  using Tiles = FlashForwardTiles<kDim, kDimV>;
  constexpr int kKeys = Tiles::kKeys;
  constexpr int kBuffer = kKeys * (kDim + kDimV) / 8;  // keys, then values
  constexpr bool kHoldQuery = kDim <= 64;              // in registers
  const FlashProblem& p = params.problem;
  KPT_DYNAMIC_SHARED(Words16, shared);
  const int warp = ThreadIndex() / 32, lane = ThreadIndex() % 32;
  const int tile_rows = BlockThreads() / 2;
  const int buffers = tile_rows * kDim / 8;  // where they begin, after the queries
  const int group = static_cast<int>(p.heads_q / p.heads_kv);
  const int all_rows = static_cast<int>(p.seqlen_q) * group;

  for (int64_t index = BlockIndex(); index < params.work.total(); index += GridBlocks()) {
    const FlashTile tile = TileOf(params, index);
    const auto query_of = [&](int row) { return row / group; };
    const auto head_of = [&](int row) { return tile.head_kv * group + row % group; };
    // Rows past the last one do as the last one does, and are not stored.
    const auto clamped = [&](int row) { return row < all_rows ? row : all_rows - 1; };
    const T* const q = static_cast<const T*>(p.q) + tile.batch * p.q_stride.batch;
    const T* const k =
        static_cast<const T*>(p.k) + tile.batch * p.k_stride.batch + tile.head_kv * p.k_stride.head;
    const T* const v =
        static_cast<const T*>(p.v) + tile.batch * p.v_stride.batch + tile.head_kv * p.v_stride.head;

    const KeyBlocks<kKeys> blocks(p, tile.batch, query_of(tile.first_row),
                                  query_of(clamped(tile.first_row + tile_rows - 1)));
    const auto load = [&](int first, int buffer) {
      const int at = buffers + buffer * kBuffer;
      FillTile<kDim, T>(shared, at, kKeys, static_cast<int>(p.dim_qk), params.aligned, p.k,
                        [&](int r) -> const T* {
                          return first + r < p.seqlen_k ? k + (first + r) * p.k_stride.row
                                                        : nullptr;
                        });
      FillTile<kDimV, T>(shared, at + kKeys * kDim / 8, kKeys, static_cast<int>(p.dim_v),
                         params.aligned, p.k, [&](int r) -> const T* {
                           return first + r < p.seqlen_k ? v + (first + r) * p.v_stride.row
                                                         : nullptr;
                         });
    };
    FillTile<kDim, T>(shared, 0, tile_rows, static_cast<int>(p.dim_qk), params.aligned, p.k,
                      [&](int r) -> const T* {
                        const int row = tile.first_row + r;
                        if (row >= all_rows) return nullptr;
                        return q + head_of(row) * p.q_stride.head + query_of(row) * p.q_stride.row;
                      });
    int first = blocks.First();
    if (first < blocks.end()) load(first, 0);
    CommitCopies();

    const int warp_row = tile.first_row + 16 * warp;
    // Made anew where it is needed: in registers it would be in the way of the products.
    const auto make_rows = [&](ScoreRow(&rows)[2]) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int row = clamped(warp_row + lane / 4 + 8 * r);
        rows[r] = MakeScoreRow(p, tile.batch, head_of(row), query_of(row));
      }
    };
    // What all rows of the warp see, and what some do.
    const KeyRange of_first = VisibleKeys(p, query_of(clamped(warp_row)));
    const KeyRange of_last = VisibleKeys(p, query_of(clamped(warp_row + 15)));
    const bool by_data = HidesByData(p);

    uint32_t held_q[kHoldQuery ? kDim / 16 : 1][4];
    RowState<kDimV> state;
    bool begun = false;
    for (int buffer = 0; first < blocks.end(); buffer ^= 1) {
      WaitCopies<0>();
      SyncBlock();  // this block of keys is there, and all are done with the other buffer
      const int next = blocks.Next(first);
      if (next < blocks.end()) load(next, buffer ^ 1);
      CommitCopies();
      if constexpr (kHoldQuery) {
        if (!begun) {
#pragma unroll
          for (int i = 0; i < kDim / 16; ++i) LoadLeft<kDim>(shared, 0, 16 * warp, i, held_q[i]);
        }
      }
      begun = true;
      const bool all = !by_data && first >= of_last.begin && first + kKeys <= of_first.end;
      bool some = first < of_last.end && first + kKeys > of_first.begin;
      uint32_t visible = ~0u;
      if (some && !all) {
        ScoreRow rows[2];
        make_rows(rows);
        visible = VisibleBits<kKeys>(p, tile.batch, rows, first);
        some = WarpAny(visible != 0);
      }
      if (some) {
        const int keys = buffers + buffer * kBuffer, values = keys + kKeys * kDim / 8;
        float s[kKeys / 8][4] = {};
#pragma unroll(kHoldQuery ? kDim / 16 : 4)
        for (int i = 0; i < kDim / 16; ++i) {
          uint32_t a[4];
          if constexpr (kHoldQuery) {
#pragma unroll
            for (int j = 0; j < 4; ++j) a[j] = held_q[i][j];
          } else {
            LoadLeft<kDim>(shared, 0, 16 * warp, i, a);
          }
#pragma unroll
          for (int n = 0; n < kKeys / 16; ++n) {
            uint32_t b[4];
            LoadRight<kDim>(shared, keys, 16 * n, i, b);
            MultiplyAdd(s[2 * n], a, b[0], b[1], T());
            MultiplyAdd(s[2 * n + 1], a, b[2], b[3], T());
          }
        }
        if constexpr (kTerms) {
          ScoreRow rows[2];
          make_rows(rows);
          MakeScores<kKeys>(p, rows, first, visible, s);
        } else {
          ScaleScores<kKeys>(p, visible, s);
        }
        Accumulate<kKeys, kDimV>(s, &state);
#pragma unroll
        for (int i = 0; i < kKeys / 16; ++i) {
          uint32_t a[4];
          LeftOf<T>(s[2 * i], s[2 * i + 1], a);
#pragma unroll
          for (int n = 0; n < kDimV / 16; ++n) {
            uint32_t b[4];
            LoadRightTransposed<kDimV>(shared, values, i, 2 * n, b);
            MultiplyAdd(state.out[2 * n], a, b[0], b[1], T());
            MultiplyAdd(state.out[2 * n + 1], a, b[2], b[3], T());
          }
        }
      }
      first = next;
    }
    WaitCopies<0>();

#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int row = warp_row + lane / 4 + 8 * r;
      float most = state.max[r], sum = QuadSum(state.sum[r]), factor = 1.0f;
      const bool stored = row < all_rows;
      const int64_t head = head_of(clamped(row)), query = query_of(clamped(row));
      if (p.sinks != nullptr) {
        const float sink = p.sinks[head * p.sinks_stride] * kLog2E;
        const float above = MaxOf(most, sink);
        const float base = above == NegativeInfinity() ? 0.0f : above;
        factor = FastExp2(most - base);
        sum = sum * factor + FastExp2(sink - base);
        most = above;
      }
      const float inverse = sum == 0.0f ? 0.0f : factor / sum;
      if (stored && lane % 4 == 0) {
        constexpr float kLn2 = 0.693147180559945309f;
        p.lse[tile.batch * p.lse_stride.batch + head * p.lse_stride.head +
              query * p.lse_stride.row] =
            sum == 0.0f ? NegativeInfinity() : kLn2 * most + NaturalLog(sum);
      }
      T* const out = static_cast<T*>(p.out) + tile.batch * p.out_stride.batch +
                     head * p.out_stride.head + query * p.out_stride.row;
#pragma unroll
      for (int n = 0; n < kDimV / 8; ++n) {
        if (!stored) continue;
        StorePair(out, 8 * n + lane % 4 * 2, static_cast<int>(p.dim_v), params.pairs,
                  state.out[n][2 * r] * inverse, state.out[n][2 * r + 1] * inverse);
      }
    }
    SyncBlock();  // the tiles are free for the next rows
  }
}

template <class T, int kDim, int kDimV>
Status StartFlashForward(const LaunchContext& ctx, const FlashProblem& p) {
  using Tiles = FlashForwardTiles<kDim, kDimV>;
  FlashForwardParams params = {p, PlanFlashForward(*ctx.device, p, Tiles::kMaxWarps), false, false};
  params.aligned = RowsArePieces(p.q, p.q_stride, p.dim_qk, 8) &&
                   RowsArePieces(p.k, p.k_stride, p.dim_qk, 8) &&
                   RowsArePieces(p.v, p.v_stride, p.dim_v, 8);
  params.pairs = RowsArePieces(p.out, p.out_stride, p.dim_v, 2);
  const int64_t total = params.work.total();
  return Launch("attention_forward", "flash_forward",
                HasScoreTerms(p) ? FlashForwardKernel<T, kDim, kDimV, true>
                                 : FlashForwardKernel<T, kDim, kDimV, false>,
                total < kMaxBlocks ? total : kMaxBlocks, 32 * params.work.warps, ctx, params,
                Tiles::SharedBytes(params.work.warps));
}

template <int kDim, int kDimV>
Status StartFlashForward(const LaunchContext& ctx, const FlashProblem& p) {
  return p.dtype == DType::kFloat16 ? StartFlashForward<Float16, kDim, kDimV>(ctx, p)
                                    : StartFlashForward<BFloat16, kDim, kDimV>(ctx, p);
}

}  // namespace
}  // namespace kpt::KPT_BACKEND

#endif  // KPT_KERNELS_ATTENTION_CUDA_FLASH_FORWARD_IMPL_H_

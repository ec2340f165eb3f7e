// The kernel of attention_backward that makes grad_q: that of attention_forward once more, with the
// weights from lse, and the gradients of scores times keys in the place of weights times values.
// Included by a file for each size of head.
#ifndef KPT_KERNELS_ATTENTION_CUDA_FLASH_QUERY_GRADS_IMPL_H_
#define KPT_KERNELS_ATTENTION_CUDA_FLASH_QUERY_GRADS_IMPL_H_

#include "kernels/attention/cuda/flash_backward_rows.h"
#include "kernels/base/gpu/launch.h"
#include "kernels/base/gpu/row_tiling.h"

namespace kpt::KPT_BACKEND {
namespace {

using namespace gpu;  // NOLINT: the vocabulary of kernels

template <class T, int kDim, int kDimV, bool kTerms>
KPT_KERNEL(32 * QueryGradTiles<kDim, kDimV>::kWarps, 1)
FlashQueryGradsKernel(KPT_PARAMS(FlashBackwardParams) params) {
  using Tiles = QueryGradTiles<kDim, kDimV>;
  constexpr int kKeys = Tiles::kKeys;
  constexpr int kRows = 16 * Tiles::kWarps;
  constexpr int kGrads = kRows * kDim / 8;  // where grad_out begins in `shared`
  constexpr int kBuffers = kRows * (kDim + kDimV) / 8;
  constexpr int kBuffer = kKeys * (kDim + kDimV) / 8;  // keys, then values
  const FlashBackwardProblem& p = params.problem;
  KPT_DYNAMIC_SHARED(Words16, shared);
  const int warp = ThreadIndex() / 32, lane = ThreadIndex() % 32;
  const int all_rows = static_cast<int>(p.seqlen_q * (p.heads_q / p.heads_kv));
  const int64_t tiles = (all_rows + kRows - 1) / kRows;
  const int64_t total = tiles * p.batch * p.heads_kv;

  for (int64_t index = BlockIndex(); index < total; index += GridBlocks()) {
    // Longest first, as in attention_forward.
    const int64_t turn = index / (p.batch * p.heads_kv);
    const int64_t of_kv = index - turn * p.batch * p.heads_kv;
    const int64_t batch = of_kv / p.heads_kv, head_kv = of_kv - batch * p.heads_kv;
    const int first_row = static_cast<int>(tiles - 1 - turn) * kRows;
    const GroupRows<T> rows(p, batch, head_kv);
    const KeyBlocks<kKeys> blocks(p, batch, rows.query(first_row),
                                  rows.query(rows.clamped(first_row + kRows - 1)));
    const T* const k =
        static_cast<const T*>(p.k) + batch * p.k_stride.batch + head_kv * p.k_stride.head;
    const T* const v =
        static_cast<const T*>(p.v) + batch * p.v_stride.batch + head_kv * p.v_stride.head;
    const auto load = [&](int first, int buffer) {
      const int at = kBuffers + buffer * kBuffer;
      const auto key_at = [&](const T* data, int64_t step) {
        return [=](int r) -> const T* {
          return first + r < p.seqlen_k ? data + (first + r) * step : nullptr;
        };
      };
      FillTile<kDim, T>(shared, at, kKeys, static_cast<int>(p.dim_qk), params.aligned, p.k,
                        key_at(k, p.k_stride.row));
      FillTile<kDimV, T>(shared, at + kKeys * kDim / 8, kKeys, static_cast<int>(p.dim_v),
                         params.aligned, p.k, key_at(v, p.v_stride.row));
    };
    FillTile<kDim, T>(shared, 0, kRows, static_cast<int>(p.dim_qk), params.aligned, p.k,
                      [&](int r) { return rows.in(p.q, p.q_stride, first_row + r); });
    FillTile<kDimV, T>(
        shared, kGrads, kRows, static_cast<int>(p.dim_v), params.aligned, p.k,
        [&](int r) { return rows.in(p.grad_out, p.grad_out_stride, first_row + r); });
    int first = blocks.First();
    if (first < blocks.end()) load(first, 0);
    CommitCopies();

    const int warp_row = first_row + 16 * warp;
    float lse[2], delta[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int64_t at = rows.place(rows.clamped(warp_row + lane / 4 + 8 * r));
      lse[r] = params.lse[at];
      delta[r] = params.delta[at];
    }
    const KeyRange of_first = rows.keys(warp_row), of_last = rows.keys(warp_row + 15);
    const bool by_data = HidesByData(p);
    float grad_q[kDim / 8][4] = {};
    for (int buffer = 0; first < blocks.end(); buffer ^= 1) {
      WaitCopies<0>();
      SyncBlock();  // this block of keys is there, and all are done with the other buffer
      const int next = blocks.Next(first);
      if (next < blocks.end()) load(next, buffer ^ 1);
      CommitCopies();
      const bool all = !by_data && first >= of_last.begin && first + kKeys <= of_first.end;
      bool some = first < of_last.end && first + kKeys > of_first.begin;
      uint32_t visible = ~0u;
      if (some && !all) {
        const ScoreRow score_rows[2] = {rows.score_row(warp_row + lane / 4),
                                        rows.score_row(warp_row + lane / 4 + 8)};
        visible = VisibleBits<kKeys>(p, batch, score_rows, first);
        some = WarpAny(visible != 0);
      }
      if (some) {
        const int keys = kBuffers + buffer * kBuffer, values = keys + kKeys * kDim / 8;
        float s[kKeys / 8][4] = {}, d[kKeys / 8][4] = {};
#pragma unroll(kTerms ? 2 : 4)
        for (int i = 0; i < kDim / 16; ++i) {
          uint32_t a[4];
          LoadLeft<kDim>(shared, 0, 16 * warp, i, a);
#pragma unroll
          for (int n = 0; n < kKeys / 16; ++n) {
            uint32_t b[4];
            LoadRight<kDim>(shared, keys, 16 * n, i, b);
            MultiplyAdd(s[2 * n], a, b[0], b[1], T());
            MultiplyAdd(s[2 * n + 1], a, b[2], b[3], T());
          }
        }
#pragma unroll(kTerms ? 2 : 4)
        for (int i = 0; i < kDimV / 16; ++i) {
          uint32_t a[4];
          LoadLeft<kDimV>(shared, kGrads, 16 * warp, i, a);
#pragma unroll
          for (int n = 0; n < kKeys / 16; ++n) {
            uint32_t b[4];
            LoadRight<kDimV>(shared, values, 16 * n, i, b);
            MultiplyAdd(d[2 * n], a, b[0], b[1], T());
            MultiplyAdd(d[2 * n + 1], a, b[2], b[3], T());
          }
        }
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          ScoreRow score_row;
          if constexpr (kTerms) score_row = rows.score_row(warp_row + lane / 4 + 8 * r);
#pragma unroll
          for (int j = 0; j < kKeys / 4; ++j) {
            const int n = j / 2, i = 2 * r + j % 2;
            const bool sees = (visible >> (4 * n + i) & 1) != 0;
            float score = s[n][i] * (p.scale * kLog2E), slope = 1.0f;
            if constexpr (kTerms) {
              score =
                  Score(p, score_row, first + 8 * n + lane % 4 * 2 + i % 2, s[n][i], &slope, sees);
            }
            const float ds = FastExp2(score - lse[r]) * (d[n][i] - delta[r]) * slope;
            s[n][i] = sees ? ds : 0.0f;
          }
        }
#pragma unroll
        for (int i = 0; i < kKeys / 16; ++i) {
          uint32_t a[4];
          LeftOf<T>(s[2 * i], s[2 * i + 1], a);
#pragma unroll
          for (int n = 0; n < kDim / 16; ++n) {
            uint32_t b[4];
            LoadRightTransposed<kDim>(shared, keys, i, 2 * n, b);
            MultiplyAdd(grad_q[2 * n], a, b[0], b[1], T());
            MultiplyAdd(grad_q[2 * n + 1], a, b[2], b[3], T());
          }
        }
      }
      first = next;
    }
    WaitCopies<0>();

#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int row = warp_row + lane / 4 + 8 * r;
      if (row >= all_rows) continue;
      T* const to = static_cast<T*>(p.grad_q) + batch * p.grad_q_stride.batch +
                    rows.head(row) * p.grad_q_stride.head + rows.query(row) * p.grad_q_stride.row;
#pragma unroll
      for (int n = 0; n < kDim / 8; ++n) {
        StorePair(to, 8 * n + lane % 4 * 2, static_cast<int>(p.dim_qk), params.pairs,
                  p.scale * grad_q[n][2 * r], p.scale * grad_q[n][2 * r + 1]);
      }
    }
    SyncBlock();  // the tiles are free for the next rows
  }
}

template <class T, int kDim, int kDimV>
Status StartQueryGrads(const LaunchContext& ctx, const FlashBackwardParams& params) {
  using Tiles = QueryGradTiles<kDim, kDimV>;
  const FlashBackwardProblem& p = params.problem;
  const int64_t rows = p.seqlen_q * (p.heads_q / p.heads_kv);
  const int64_t total =
      (rows + 16 * Tiles::kWarps - 1) / (16 * Tiles::kWarps) * p.batch * p.heads_kv;
  return Launch("attention_backward", "grad_q",
                HasScoreTerms(p) ? FlashQueryGradsKernel<T, kDim, kDimV, true>
                                 : FlashQueryGradsKernel<T, kDim, kDimV, false>,
                total < kMaxBlocks ? total : kMaxBlocks, 32 * Tiles::kWarps, ctx, params,
                Tiles::kSharedBytes);
}

template <int kDim, int kDimV>
Status StartQueryGrads(const LaunchContext& ctx, const FlashBackwardProblem& p) {
  const FlashBackwardParams params = MakeFlashBackwardParams(ctx, p);
  return p.dtype == DType::kFloat16 ? StartQueryGrads<Float16, kDim, kDimV>(ctx, params)
                                    : StartQueryGrads<BFloat16, kDim, kDimV>(ctx, params);
}

}  // namespace
}  // namespace kpt::KPT_BACKEND

#endif  // KPT_KERNELS_ATTENTION_CUDA_FLASH_QUERY_GRADS_IMPL_H_

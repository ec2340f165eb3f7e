// The kernel of attention_backward that makes grad_k and grad_v. A block keeps 16 keys and values a
// warp and walks over the rows that see them, of all the query heads that share the key head,
// always in the same order: the gradients have the same bits whatever runs beside. Scores are
// computed transposed, keys by rows, so that weights and their gradients are left factors as they
// stand in registers. Included by a file for each size of head.
//
// Predicted with the other two kernels of attention_backward, at 16384 causal tokens of 16 heads of
// 128 in bfloat16, 2.75 TFLOP: on an H200 15 ms, 185 TFLOP/s; on an A100 27 ms. The two kernels
// make 7 products where one that adds to grad_q from all blocks would make 5, at the forward's
// rate: the price of sums in a fixed order without a second trip of grad_q through memory.
#ifndef KPT_KERNELS_ATTENTION_CUDA_FLASH_KEY_GRADS_IMPL_H_
#define KPT_KERNELS_ATTENTION_CUDA_FLASH_KEY_GRADS_IMPL_H_

#include "kernels/attention/cuda/flash_backward_rows.h"
#include "kernels/base/gpu/launch.h"
#include "kernels/base/gpu/row_tiling.h"

namespace kpt::KPT_BACKEND {
namespace {

using namespace gpu;  // NOLINT: the vocabulary of kernels

// Blocks of kRows rows some of which see some of the keys [key, key + keys).
template <int kRows, class T>
class RowBlocks {
 public:
  KPT_DEVICE_MEMBER RowBlocks(const FlashProblem& p, const GroupRows<T>& rows, int64_t batch,
                              int key, int keys)
      : p_(p), rows_(rows), batch_(batch), key_(key), end_key_(key + keys) {
    if (end_key_ > p.seqlen_k) end_key_ = static_cast<int>(p.seqlen_k);
    if (p.q_doc == nullptr) return;
    int64_t least = INT64_MAX, minus_most = INT64_MAX;
    for (int j = key + ThreadIndex() % 32; j < end_key_; j += 32) {
      const int64_t d = DocumentAt(p.k_doc, p.doc_dtype, batch * p.k_doc_batch + j * p.k_doc_row);
      least = d < least ? d : least;
      minus_most = ~d < minus_most ? ~d : minus_most;
    }
    least_ = WarpLeast(least);
    most_ = ~WarpLeast(minus_most);
  }
  // The first one from row `first` on; count or beyond when there is none.
  KPT_DEVICE_MEMBER int From(int first) const {
    for (; first < rows_.count(); first += kRows) {
      if (rows_.keys(first).begin >= end_key_ || rows_.keys(first + kRows - 1).end <= key_) {
        continue;
      }
      if (p_.q_doc == nullptr) break;
      bool near = false;
      for (int i = ThreadIndex() % 32; i < kRows; i += 32) {
        const int64_t d = DocumentAt(
            p_.q_doc, p_.doc_dtype,
            batch_ * p_.q_doc_batch + rows_.query(rows_.clamped(first + i)) * p_.q_doc_row);
        near = near || (d >= least_ && d <= most_);
      }
      if (WarpAny(near)) break;
    }
    return first;
  }

 private:
  const FlashProblem& p_;
  const GroupRows<T>& rows_;
  int64_t batch_;
  int key_, end_key_;
  int64_t least_ = 0, most_ = 0;
};

// Bit 4 n + i of element i of fragment n: whether row first + 8 n + 2 (lane % 4) + i % 2 sees key
// key + 8 (i / 2).
template <int kRows, class T>
KPT_DEVICE uint32_t SeenBits(const FlashProblem& p, const GroupRows<T>& rows, int64_t batch,
                             int first, int key) {
  uint32_t bits = 0;
#pragma unroll 1
  for (int n = 0; n < kRows / 8; ++n) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const int row = first + 8 * n + ThreadIndex() % 4 * 2 + e;
      if (row >= rows.count()) continue;
      const ScoreRow score_row = rows.score_row(row);
      bits |= static_cast<uint32_t>(SeesKey(p, batch, score_row, key)) << (4 * n + e);
      bits |= static_cast<uint32_t>(SeesKey(p, batch, score_row, key + 8)) << (4 * n + 2 + e);
    }
  }
  return bits;
}

template <class T, int kDim, int kDimV, bool kTerms, bool kWantK, bool kWantV>
KPT_KERNEL(32 * KeyGradTiles<kDim, kDimV>::kWarps, 1)
FlashKeyGradsKernel(KPT_PARAMS(FlashBackwardParams) params) {
  using Tiles = KeyGradTiles<kDim, kDimV>;
  constexpr int kRows = Tiles::kRows;
  constexpr int kKeys = 16 * Tiles::kWarps;
  constexpr int kValues = kKeys * kDim / 8;             // where the values begin in `shared`
  constexpr int kBuffers = kKeys * (kDim + kDimV) / 8;  // two, of queries and grad_out
  constexpr int kGrads = kRows * kDim / 8;              // where grad_out begins in one
  constexpr int kBuffer = kRows * (kDim + kDimV) / 8;
  const FlashBackwardProblem& p = params.problem;
  KPT_DYNAMIC_SHARED(Words16, shared);
  KPT_SHARED(float, row_sums, 4 * kRows);  // in each buffer, of each row: lse, and then delta
  const int warp = ThreadIndex() / 32, lane = ThreadIndex() % 32;
  const int64_t tiles = (p.seqlen_k + kKeys - 1) / kKeys;
  const int64_t total = tiles * p.batch * p.heads_kv;

  for (int64_t index = BlockIndex(); index < total; index += GridBlocks()) {
    // Under a causal mask the first keys are seen by the most rows: longest first.
    const int64_t tile = index / (p.batch * p.heads_kv);
    const int64_t of_kv = index - tile * p.batch * p.heads_kv;
    const int64_t batch = of_kv / p.heads_kv, head_kv = of_kv - batch * p.heads_kv;
    const int first_key = static_cast<int>(tile) * kKeys;
    const GroupRows<T> rows(p, batch, head_kv);
    const RowBlocks<kRows, T> blocks(p, rows, batch, first_key, kKeys);
    const T* const k =
        static_cast<const T*>(p.k) + batch * p.k_stride.batch + head_kv * p.k_stride.head;
    const T* const v =
        static_cast<const T*>(p.v) + batch * p.v_stride.batch + head_kv * p.v_stride.head;
    const auto key_at = [&](const T* data, int64_t step) {
      return [=](int r) -> const T* {
        return first_key + r < p.seqlen_k ? data + (first_key + r) * step : nullptr;
      };
    };
    const auto load = [&](int first, int buffer) {
      const int at = kBuffers + buffer * kBuffer;
      FillTile<kDim, T>(shared, at, kRows, static_cast<int>(p.dim_qk), params.aligned, p.k,
                        [&](int r) { return rows.in(p.q, p.q_stride, first + r); });
      FillTile<kDimV, T>(shared, at + kGrads, kRows, static_cast<int>(p.dim_v), params.aligned, p.k,
                         [&](int r) { return rows.in(p.grad_out, p.grad_out_stride, first + r); });
      for (int i = ThreadIndex(); i < 2 * kRows; i += BlockThreads()) {
        const int row = rows.clamped(first + i % kRows);
        row_sums[buffer * 2 * kRows + i] =
            i < kRows ? params.lse[rows.place(row)] : params.delta[rows.place(row)];
      }
    };
    FillTile<kDim, T>(shared, 0, kKeys, static_cast<int>(p.dim_qk), params.aligned, p.k,
                      key_at(k, p.k_stride.row));
    FillTile<kDimV, T>(shared, kValues, kKeys, static_cast<int>(p.dim_v), params.aligned, p.k,
                       key_at(v, p.v_stride.row));
    int first = blocks.From(0);
    if (first < rows.count()) load(first, 0);
    CommitCopies();

    const int warp_key = first_key + 16 * warp;
    const bool by_data = HidesByData(p);
    float grad_k[kWantK ? kDim / 8 : 1][4] = {};
    float grad_v[kWantV ? kDimV / 8 : 1][4] = {};
    for (int buffer = 0; first < rows.count(); buffer ^= 1) {
      WaitCopies<0>();
      SyncBlock();  // these rows are there, and all are done with the other buffer
      const int next = blocks.From(first + kRows);
      if (next < rows.count()) load(next, buffer ^ 1);
      CommitCopies();
      const KeyRange of_first = rows.keys(first), of_last = rows.keys(first + kRows - 1);
      const bool all = !by_data && warp_key >= of_last.begin && warp_key + 16 <= of_first.end;
      bool some = warp_key < of_last.end && warp_key + 16 > of_first.begin;
      uint32_t seen = ~0u;
      if (some && !all) {
        seen = SeenBits<kRows, T>(p, rows, batch, first, warp_key + lane / 4);
        some = WarpAny(seen != 0);
      }
      if (some) {
        const int queries = kBuffers + buffer * kBuffer, grads = queries + kGrads;
        const auto sums = row_sums + buffer * 2 * kRows;
        float s[kRows / 8][4] = {};
#pragma unroll 2
        for (int i = 0; i < kDim / 16; ++i) {
          uint32_t a[4];
          LoadLeft<kDim>(shared, 0, 16 * warp, i, a);
#pragma unroll
          for (int n = 0; n < kRows / 16; ++n) {
            uint32_t b[4];
            LoadRight<kDim>(shared, queries, 16 * n, i, b);
            MultiplyAdd(s[2 * n], a, b[0], b[1], T());
            MultiplyAdd(s[2 * n + 1], a, b[2], b[3], T());
          }
        }
        uint32_t weights[kRows / 16][4];  // as left factors
        float slopes[2][4];
#pragma unroll
        for (int n = 0; n < kRows / 8; ++n) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const int in_block = 8 * n + lane % 4 * 2 + i % 2;
            float score = s[n][i] * (p.scale * kLog2E), d = 1.0f;
            if constexpr (kTerms) {
              score = Score(p, rows.score_row(first + in_block), warp_key + lane / 4 + i / 2 * 8,
                            s[n][i], &d, (seen >> (4 * n + i) & 1) != 0);
            }
            s[n][i] = (seen >> (4 * n + i) & 1) != 0 ? FastExp2(score - sums[in_block]) : 0.0f;
            slopes[n % 2][i] = d;
          }
          if (n % 2 == 0) continue;
          LeftOf<T>(s[n - 1], s[n], weights[n / 2]);
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            s[n - 1][i] *= slopes[0][i];
            s[n][i] *= slopes[1][i];
          }
        }
        if constexpr (kWantV) {
#pragma unroll
          for (int i = 0; i < kRows / 16; ++i) {
#pragma unroll
            for (int n = 0; n < kDimV / 16; ++n) {
              uint32_t b[4];
              LoadRightTransposed<kDimV>(shared, grads, i, 2 * n, b);
              MultiplyAdd(grad_v[2 * n], weights[i], b[0], b[1], T());
              MultiplyAdd(grad_v[2 * n + 1], weights[i], b[2], b[3], T());
            }
          }
        }
        if constexpr (kWantK) {
          float d[kRows / 8][4] = {};
#pragma unroll 2
          for (int i = 0; i < kDimV / 16; ++i) {
            uint32_t a[4];
            LoadLeft<kDimV>(shared, kValues, 16 * warp, i, a);
#pragma unroll
            for (int n = 0; n < kRows / 16; ++n) {
              uint32_t b[4];
              LoadRight<kDimV>(shared, grads, 16 * n, i, b);
              MultiplyAdd(d[2 * n], a, b[0], b[1], T());
              MultiplyAdd(d[2 * n + 1], a, b[2], b[3], T());
            }
          }
#pragma unroll
          for (int n = 0; n < kRows / 8; ++n) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
              const float delta = sums[kRows + 8 * n + lane % 4 * 2 + i % 2];
              const float ds = s[n][i] * (d[n][i] - delta);
              s[n][i] = (seen >> (4 * n + i) & 1) != 0 ? ds : 0.0f;
            }
          }
#pragma unroll
          for (int i = 0; i < kRows / 16; ++i) {
            uint32_t a[4];
            LeftOf<T>(s[2 * i], s[2 * i + 1], a);
#pragma unroll
            for (int n = 0; n < kDim / 16; ++n) {
              uint32_t b[4];
              LoadRightTransposed<kDim>(shared, queries, i, 2 * n, b);
              MultiplyAdd(grad_k[2 * n], a, b[0], b[1], T());
              MultiplyAdd(grad_k[2 * n + 1], a, b[2], b[3], T());
            }
          }
        }
      }
      first = next;
    }
    WaitCopies<0>();

#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int key = warp_key + lane / 4 + 8 * r;
      if (key >= p.seqlen_k) continue;
      if constexpr (kWantK) {
        T* const to = static_cast<T*>(p.grad_k) + batch * p.grad_k_stride.batch +
                      head_kv * p.grad_k_stride.head + key * p.grad_k_stride.row;
#pragma unroll
        for (int n = 0; n < kDim / 8; ++n) {
          StorePair(to, 8 * n + lane % 4 * 2, static_cast<int>(p.dim_qk), params.pairs,
                    p.scale * grad_k[n][2 * r], p.scale * grad_k[n][2 * r + 1]);
        }
      }
      if constexpr (kWantV) {
        T* const to = static_cast<T*>(p.grad_v) + batch * p.grad_v_stride.batch +
                      head_kv * p.grad_v_stride.head + key * p.grad_v_stride.row;
#pragma unroll
        for (int n = 0; n < kDimV / 8; ++n) {
          StorePair(to, 8 * n + lane % 4 * 2, static_cast<int>(p.dim_v), params.pairs,
                    grad_v[n][2 * r], grad_v[n][2 * r + 1]);
        }
      }
    }
    SyncBlock();  // the tiles are free for the next keys
  }
}

template <class T, int kDim, int kDimV, bool kWantK, bool kWantV>
Status StartKeyGrads(const LaunchContext& ctx, const FlashBackwardParams& params) {
  using Tiles = KeyGradTiles<kDim, kDimV>;
  const FlashBackwardProblem& p = params.problem;
  const int64_t keys = 16 * Tiles::kWarps;
  const int64_t total = (p.seqlen_k + keys - 1) / keys * p.batch * p.heads_kv;
  return Launch("attention_backward", kWantV ? "grad_v" : "grad_k",
                HasScoreTerms(p) ? FlashKeyGradsKernel<T, kDim, kDimV, true, kWantK, kWantV>
                                 : FlashKeyGradsKernel<T, kDim, kDimV, false, kWantK, kWantV>,
                total < kMaxBlocks ? total : kMaxBlocks, 32 * Tiles::kWarps, ctx, params,
                Tiles::kSharedBytes);
}

template <class T, int kDim, int kDimV>
Status StartKeyGrads(const LaunchContext& ctx, const FlashBackwardParams& params) {
  if constexpr (KeyGradTiles<kDim, kDimV>::kApart) {
    KPT_RETURN_IF_ERROR((StartKeyGrads<T, kDim, kDimV, false, true>(ctx, params)));
    return StartKeyGrads<T, kDim, kDimV, true, false>(ctx, params);
  } else {
    return StartKeyGrads<T, kDim, kDimV, true, true>(ctx, params);
  }
}

template <int kDim, int kDimV>
Status StartKeyGrads(const LaunchContext& ctx, const FlashBackwardProblem& p) {
  const FlashBackwardParams params = MakeFlashBackwardParams(ctx, p);
  return p.dtype == DType::kFloat16 ? StartKeyGrads<Float16, kDim, kDimV>(ctx, params)
                                    : StartKeyGrads<BFloat16, kDim, kDimV>(ctx, params);
}

}  // namespace
}  // namespace kpt::KPT_BACKEND

#endif  // KPT_KERNELS_ATTENTION_CUDA_FLASH_KEY_GRADS_IMPL_H_

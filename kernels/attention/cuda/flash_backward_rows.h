// The rows of attention_backward on a GPU: what its kernels know of the queries that share a key
// head.
#ifndef KPT_KERNELS_ATTENTION_CUDA_FLASH_BACKWARD_ROWS_H_
#define KPT_KERNELS_ATTENTION_CUDA_FLASH_BACKWARD_ROWS_H_

#include "kernels/attention/cuda/flash_backward_kernels.h"
#include "kernels/attention/cuda/key_blocks.h"
#include "kernels/attention/cuda/score_rules.h"
#include "kernels/attention/cuda/tiles.h"

namespace kpt::gpu {

struct FlashBackwardParams {
  FlashBackwardProblem problem;
  float* lse;  // the workspace
  float* delta;
  bool aligned;  // rows of q, k, v and grad_out are 16-byte pieces
  bool pairs;    // pairs of elements of the gradients are 4-byte pieces
};

[[maybe_unused]] static inline FlashBackwardParams MakeFlashBackwardParams(
    const LaunchContext& ctx, const FlashBackwardProblem& p) {
  FlashBackwardParams params = {};
  params.problem = p;
  params.lse = static_cast<float*>(ctx.workspace);
  params.delta = params.lse + p.batch * p.heads_q * p.seqlen_q;
  params.aligned = RowsArePieces(p.q, p.q_stride, p.dim_qk, 8) &&
                   RowsArePieces(p.k, p.k_stride, p.dim_qk, 8) &&
                   RowsArePieces(p.v, p.v_stride, p.dim_v, 8) &&
                   RowsArePieces(p.grad_out, p.grad_out_stride, p.dim_v, 8);
  params.pairs = RowsArePieces(p.grad_q, p.grad_q_stride, p.dim_qk, 2) &&
                 RowsArePieces(p.grad_k, p.grad_k_stride, p.dim_qk, 2) &&
                 RowsArePieces(p.grad_v, p.grad_v_stride, p.dim_v, 2);
  return params;
}

template <class T>
class GroupRows {
 public:
  KPT_DEVICE_MEMBER GroupRows(const FlashBackwardProblem& p, int64_t batch, int64_t head_kv)
      : p_(p),
        batch_(batch),
        head_kv_(head_kv),
        group_(static_cast<int>(p.heads_q / p.heads_kv)),
        count_(static_cast<int>(p.seqlen_q) * group_) {}

  KPT_DEVICE_MEMBER int count() const { return count_; }
  KPT_DEVICE_MEMBER int query(int row) const { return row / group_; }
  KPT_DEVICE_MEMBER int64_t head(int row) const { return head_kv_ * group_ + row % group_; }
  // Rows past the last one see what the last one sees.
  KPT_DEVICE_MEMBER int clamped(int row) const { return row < count_ ? row : count_ - 1; }
  KPT_DEVICE_MEMBER KeyRange keys(int row) const { return VisibleKeys(p_, query(clamped(row))); }
  KPT_DEVICE_MEMBER ScoreRow score_row(int row) const {
    row = clamped(row);
    return MakeScoreRow(p_, batch_, head(row), query(row));
  }
  // In the arrays of the workspace.
  KPT_DEVICE_MEMBER int64_t place(int row) const {
    return (batch_ * p_.heads_kv + head_kv_) * count_ + row;
  }
  // Where a row begins in q, grad_out or alike; nullptr past the last one.
  KPT_DEVICE_MEMBER const T* in(const void* data, const HeadStrides& stride, int row) const {
    if (row >= count_) return nullptr;
    return static_cast<const T*>(data) + batch_ * stride.batch + head(row) * stride.head +
           query(row) * stride.row;
  }

 private:
  const FlashBackwardProblem& p_;
  int64_t batch_, head_kv_;
  int group_, count_;
};

}  // namespace kpt::gpu

#endif  // KPT_KERNELS_ATTENTION_CUDA_FLASH_BACKWARD_ROWS_H_

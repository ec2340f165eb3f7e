// attention_backward on a GPU, its first kernel: what every row needs besides its scores. A warp a
// row; it reads out and grad_out once.
#include "kernels/attention/cuda/flash_backward_rows.h"

#include "kernels/base/gpu/launch.h"
#include "kernels/base/gpu/row_tiling.h"

namespace kpt::KPT_BACKEND {
namespace {

using namespace gpu;  // NOLINT: the vocabulary of kernels

constexpr int kThreads = 256;

template <class T>
KPT_KERNEL(kThreads)
FlashRowSumsKernel(KPT_PARAMS(FlashBackwardParams) params) {
  const FlashBackwardProblem& p = params.problem;
  const int lane = ThreadIndex() % 32;
  const int64_t group = p.heads_q / p.heads_kv;
  const int64_t rows = p.seqlen_q * group;
  const int64_t total = p.batch * p.heads_kv * rows;
  for (int64_t i = BlockIndex() * (kThreads / 32) + ThreadIndex() / 32; i < total;
       i += GridBlocks() * (kThreads / 32)) {
    const int64_t of_kv = i / rows, row = i - of_kv * rows;
    const int64_t batch = of_kv / p.heads_kv;
    const int64_t head = (of_kv - batch * p.heads_kv) * group + row % group;
    const int64_t query = row / group;
    const T* const out = static_cast<const T*>(p.out) + batch * p.out_stride.batch +
                         head * p.out_stride.head + query * p.out_stride.row;
    const T* const grad = static_cast<const T*>(p.grad_out) + batch * p.grad_out_stride.batch +
                          head * p.grad_out_stride.head + query * p.grad_out_stride.row;
    float sum = 0.0f;
    for (int64_t d = lane; d < p.dim_v; d += 32) sum += FloatOf(out[d]) * FloatOf(grad[d]);
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) sum += ShuffleXor(sum, mask);
    if (lane != 0) continue;
    if (p.grad_lse != nullptr) {
      sum -= p.grad_lse[batch * p.grad_lse_stride.batch + head * p.grad_lse_stride.head +
                        query * p.grad_lse_stride.row];
    }
    const float lse =
        p.lse[batch * p.lse_stride.batch + head * p.lse_stride.head + query * p.lse_stride.row];
    params.lse[i] = lse == NegativeInfinity() ? 0.0f : lse * kLog2E;
    params.delta[i] = sum;
  }
}

}  // namespace

Status FlashBackwardRowSums(const LaunchContext& ctx, const FlashBackwardProblem& p) {
  const int64_t rows = FlashBackwardRows(p);
  const FlashBackwardParams params = MakeFlashBackwardParams(ctx, p);
  const int64_t blocks = (rows + kThreads / 32 - 1) / (kThreads / 32);
  return Launch(
      "attention_backward", "row_sums",
      p.dtype == DType::kFloat16 ? FlashRowSumsKernel<Float16> : FlashRowSumsKernel<BFloat16>,
      blocks < kMaxBlocks ? blocks : kMaxBlocks, kThreads, ctx, params);
}

}  // namespace kpt::KPT_BACKEND

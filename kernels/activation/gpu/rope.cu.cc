// rope on a GPU.
//
// Predicted on an H200 (copies reach 4.3 TB/s): q and k are read and written once, the tables once
// for 4 heads, from the caches after the first. For 8192 positions of 32 query and 8 key heads of
// 128 in bfloat16, 2 x 84 MB: 39 us. A thread turns the same pairs of 4 heads, so 8 loads of 16
// bytes are in flight; neighbouring threads have neighbouring pairs and then positions.
#include "kernels/activation/gpu/rope_kernels.h"
#include "kernels/base/gpu/launch.h"
#include "kernels/base/gpu/pack.h"
#include "kernels/base/gpu/row_tiling.h"

namespace kpt::KPT_BACKEND {
namespace {

using namespace gpu;  // NOLINT: the vocabulary of kernels

constexpr int kThreads = 256;
constexpr int kHeads = 4;  // that a thread takes

struct RopeParams {
  RopeJob job;
  int64_t pair_units;  // of a head; after them come units that pass through
  int64_t units;
  int64_t query_chunks, chunks;  // of kHeads heads, those of q first
};

template <class T, int kWidth>
KPT_KERNEL(kThreads, 2)
RopeKernel(KPT_PARAMS(RopeParams) p) {
  using P = Pack<T, kWidth>;
  const RopeJob& job = p.job;
  const int64_t items = job.batch * job.seqlen * p.units;
  const int64_t total = items * p.chunks;
  for (int64_t index = BlockIndex() * BlockThreads() + ThreadIndex(); index < total;
       index += GridBlocks() * BlockThreads()) {
    const int64_t chunk = index / items;
    const int64_t item = index - chunk * items;
    const int64_t place = item / p.units;
    const int64_t unit = item - place * p.units;
    const int64_t batch = place / job.seqlen;
    const int64_t position = place - batch * job.seqlen;
    const bool is_query = chunk < p.query_chunks;
    const RopeJob::Side& side = job.sides[is_query ? 0 : 1];
    const int64_t head = (is_query ? chunk : chunk - p.query_chunks) * kHeads;
    const int64_t heads = side.heads - head < kHeads ? side.heads - head : kHeads;
    const T* const in = static_cast<const T*>(side.in) + batch * side.in_strides[0] +
                        head * side.in_strides[1] + position * side.in_strides[2];
    T* const out = static_cast<T*>(side.out) + batch * side.out_strides[0] +
                   head * side.out_strides[1] + position * side.out_strides[2];
    if (unit >= p.pair_units) {
      const int64_t at = 2 * job.pairs + (unit - p.pair_units) * kWidth;
#pragma unroll
      for (int h = 0; h < kHeads; ++h) {
        if (h < heads) {
          P::LoadOnce(in + h * side.in_strides[1] + at).Store(out + h * side.out_strides[1] + at);
        }
      }
      continue;
    }
    const int64_t pair = unit * kWidth;
    const int64_t first = job.interleaved ? 2 * pair : pair;
    const int64_t second = job.interleaved ? 2 * pair + kWidth : pair + job.pairs;
    P a[kHeads], b[kHeads];
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      if (h >= heads) continue;
      a[h] = P::LoadOnce(in + h * side.in_strides[1] + first);
      b[h] = P::LoadOnce(in + h * side.in_strides[1] + second);
    }
    const bool is_float = job.table_dtype == DType::kFloat32;
    float cos[kWidth], sin[kWidth];
    LoadParam<T, kWidth>(job.cos.data, is_float,
                         batch * job.cos.batch_stride + position * job.cos.row_stride + pair, cos);
    LoadParam<T, kWidth>(job.sin.data, is_float,
                         batch * job.sin.batch_stride + position * job.sin.row_stride + pair, sin);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) sin[i] = job.inverse ? -sin[i] : sin[i];
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      if (h >= heads) continue;
      float x[2][kWidth];
      a[h].Widen(x[0]);
      b[h].Widen(x[1]);
      // Pair i is x[0][i] and x[1][i], or two neighbours in the 2 kWidth elements.
#pragma unroll
      for (int i = 0; i < kWidth; ++i) {
        float* const even = &x[2 * i / kWidth][2 * i % kWidth];
        float* const odd = &x[(2 * i + 1) / kWidth][(2 * i + 1) % kWidth];
        const float u = job.interleaved ? *even : x[0][i];
        const float v = job.interleaved ? *odd : x[1][i];
        const float turned_u = u * cos[i] - v * sin[i];
        const float turned_v = v * cos[i] + u * sin[i];
        if (job.interleaved) {
          *even = turned_u;
          *odd = turned_v;
        } else {
          x[0][i] = turned_u;
          x[1][i] = turned_v;
        }
      }
      P::Of(x[0]).Store(out + h * side.out_strides[1] + first);
      P::Of(x[1]).Store(out + h * side.out_strides[1] + second);
    }
  }
}

template <class T, int kWidth>
Status Start(const LaunchContext& ctx, const RopeJob& job) {
  RopeParams params;
  params.job = job;
  params.pair_units = job.pairs / kWidth;
  params.units = params.pair_units + (job.head_dim - 2 * job.pairs) / kWidth;
  params.query_chunks = (job.sides[0].heads + kHeads - 1) / kHeads;
  params.chunks = params.query_chunks + (job.sides[1].heads + kHeads - 1) / kHeads;
  const int64_t total = job.batch * job.seqlen * params.units * params.chunks;
  const int64_t blocks = (total + kThreads - 1) / kThreads;
  return Launch("rope", "rope", RopeKernel<T, kWidth>, blocks < kMaxBlocks ? blocks : kMaxBlocks,
                kThreads, ctx, params);
}

}  // namespace

Status RopeVectors(const LaunchContext& ctx, const RopeJob& job) {
  return ForFloatType(job.dtype, [&](auto t) {
    using T = decltype(t);
    return Start<T, kVectorWidth<T>>(ctx, job);
  });
}

Status RopeScalars(const LaunchContext& ctx, const RopeJob& job) {
  return ForFloatType(job.dtype, [&](auto t) {
    using T = decltype(t);
    return Start<T, 1>(ctx, job);
  });
}

}  // namespace kpt::KPT_BACKEND

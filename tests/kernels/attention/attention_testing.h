// What the tests of attention share: problems on tensors between sentinels, and their results in
// double precision.
#ifndef KPT_TESTS_KERNELS_ATTENTION_ATTENTION_TESTING_H_
#define KPT_TESTS_KERNELS_ATTENTION_ATTENTION_TESTING_H_

#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "kernels/attention/attention_forward.h"
#include "tests/kernels/base/row_op_testing.h"

namespace kpt::testing_util {

struct Sizes {
  int64_t batch, heads_q, heads_kv, seqlen_q, seqlen_k, dim_qk, dim_v;

  std::string Text() const {
    std::string s;
    for (const int64_t n : {batch, heads_q, heads_kv, seqlen_q, seqlen_k, dim_qk, dim_v}) {
      s += (s.empty() ? "" : "x") + std::to_string(n);
    }
    return s;
  }
};

// A [batch, heads, rows, cols] tensor in a buffer of rows `gap` elements apart; `by_token`: in the
// order [batch, rows, heads, cols], as the projections of a model write it.
class HeadTensor {
 public:
  HeadTensor(DType dtype, int64_t batch, int64_t heads, int64_t rows, int64_t cols, int64_t gap = 0,
             bool by_token = false)
      : memory(dtype, batch * heads * rows, cols, gap),
        batch_(batch),
        heads_(heads),
        rows_(rows),
        by_token_(by_token) {}

  MutableTensorView view() {
    MutableTensorView v = memory.view();
    const int64_t row = v.strides[0];
    const int64_t shape[4] = {batch_, heads_, rows_, memory.cols()};
    const int64_t strides[4] = {heads_ * rows_ * row, by_token_ ? row : rows_ * row,
                                by_token_ ? heads_ * row : row, 1};
    v.rank = 4;
    for (int i = 0; i < 4; ++i) {
      v.shape[i] = shape[i];
      v.strides[i] = strides[i];
    }
    return v;
  }
  int64_t Row(int64_t b, int64_t h, int64_t r) const {
    return by_token_ ? (b * rows_ + r) * heads_ + h : (b * heads_ + h) * rows_ + r;
  }
  float Get(int64_t b, int64_t h, int64_t r, int64_t c) const {
    return memory.Get(Row(b, h, r), c);
  }
  void Set(int64_t b, int64_t h, int64_t r, int64_t c, float x) { memory.Set(Row(b, h, r), c, x); }
  int64_t batch() const { return batch_; }
  int64_t heads() const { return heads_; }
  int64_t rows() const { return rows_; }
  int64_t cols() const { return memory.cols(); }

  Tensor memory;

 private:
  int64_t batch_, heads_, rows_;
  bool by_token_;
};

// A view of other data with the given shape, dense.
template <class T>
TensorView Dense(const std::vector<T>& data, DType dtype, const std::vector<int64_t>& shape) {
  TensorView v;
  v.data = data.data();
  v.dtype = dtype;
  v.rank = static_cast<int>(shape.size());
  int64_t stride = 1;
  for (int i = v.rank - 1; i >= 0; --i) {
    v.shape[i] = shape[static_cast<size_t>(i)];
    v.strides[i] = stride;
    stride *= v.shape[i];
  }
  return v;
}

// One call: inputs, options and outputs.
struct Problem {
  Problem(DType dtype, const Sizes& n, int64_t gap = 0, bool by_token = false)
      : sizes(n),
        q(dtype, n.batch, n.heads_q, n.seqlen_q, n.dim_qk, gap, by_token),
        k(dtype, n.batch, n.heads_kv, n.seqlen_k, n.dim_qk, gap, by_token),
        v(dtype, n.batch, n.heads_kv, n.seqlen_k, n.dim_v, gap, by_token),
        out(dtype, n.batch, n.heads_q, n.seqlen_q, n.dim_v, gap, by_token),
        lse(DType::kFloat32, n.batch, n.heads_q, 1, n.seqlen_q, gap) {
    std::mt19937 random(static_cast<unsigned>(n.seqlen_q * 31 + n.seqlen_k * 7 + n.dim_qk));
    for (HeadTensor* t : {&q, &k, &v}) t->memory.Fill(&random, 0.0f, 1.0f);
    args.q = q.view();
    args.k = k.view();
    args.v = v.view();
    args.out = out.view();
    // [B, Hq, Sq]
    args.lse = lse.view();
    args.lse.rank = 3;
    args.lse.shape[2] = n.seqlen_q;
    args.lse.strides[2] = 1;
  }

  kpt::Status Run(const LaunchContext& ctx) { return cpu::AttentionForward(ctx, args); }

  Sizes sizes;
  HeadTensor q, k, v, out, lse;
  cpu::AttentionForwardArgs args;
};

inline double MaskAt(const TensorView& m, const int64_t (&index)[4]) {
  int64_t at = 0;
  for (int i = 0; i < m.rank; ++i) {
    if (m.shape[i] != 1) at += index[4 - m.rank + i] * m.strides[i];
  }
  if (m.dtype == DType::kBool) {
    return m.as<uint8_t>()[at] != 0 ? 0.0 : -std::numeric_limits<double>::infinity();
  }
  if (m.dtype == DType::kFloat32) return static_cast<double>(m.as<float>()[at]);
  const uint16_t code = m.as<uint16_t>()[at];
  return static_cast<double>(m.dtype == DType::kFloat16 ? DecodeHalf(code) : DecodeBf16(code));
}

inline int64_t DocumentAt(const TensorView& t, int64_t b, int64_t i) {
  const int64_t at = b * t.strides[0] + i * t.strides[1];
  return t.dtype == DType::kInt32 ? t.as<int32_t>()[at] : t.as<int64_t>()[at];
}

// Row (b, h, i) of the result in double: the formula of attention_forward.h, term by term.
struct ExactRow {
  ExactRow(const Problem& p, int64_t b, int64_t h, int64_t i) {
    const Sizes& n = p.sizes;
    const cpu::AttentionForwardArgs& a = p.args;
    const double infinity = std::numeric_limits<double>::infinity();
    const int64_t kv = h / (n.heads_q / n.heads_kv);
    const int64_t position = i + n.seqlen_k - n.seqlen_q;
    const double scale = a.scale.has_value() ? static_cast<double>(*a.scale)
                                             : 1 / std::sqrt(static_cast<double>(n.dim_qk));
    const double softcap = static_cast<double>(a.softcap);
    std::vector<double> s(static_cast<size_t>(n.seqlen_k));
    double most = a.sinks.present() ? static_cast<double>(a.sinks.as<float>()[h]) : -infinity;
    const double sink = most;
    for (int64_t j = 0; j < n.seqlen_k; ++j) {
      double x = 0;
      for (int64_t c = 0; c < n.dim_qk; ++c) {
        x += static_cast<double>(p.q.Get(b, h, i, c)) * static_cast<double>(p.k.Get(b, kv, j, c));
      }
      x *= scale;
      if (softcap > 0) x = softcap * std::tanh(x / softcap);
      double bias = 0;
      if (a.mask.present()) bias = MaskAt(a.mask, {b, h, i, j});
      const bool hidden =
          bias == -infinity || (a.is_causal && j > position && j >= a.prefix_len) ||
          (a.window_left >= 0 && j < position - a.window_left) ||
          (a.window_right >= 0 && j > position + a.window_right) ||
          (a.q_doc.present() && DocumentAt(a.q_doc, b, i) != DocumentAt(a.k_doc, b, j));
      x += bias;
      if (a.alibi_slopes.present()) {
        const int64_t at = a.alibi_slopes.rank == 2 ? b * n.heads_q + h : h;
        x -= static_cast<double>(a.alibi_slopes.as<float>()[at]) *
             static_cast<double>(std::abs(position - j));
      }
      s[static_cast<size_t>(j)] = hidden ? -infinity : x;
      if (!hidden) visible = true;
      if (!hidden && x > most) most = x;
    }
    double sum = most == -infinity ? 0 : std::exp(sink - most);
    out.assign(static_cast<size_t>(n.dim_v), 0.0);
    spread.assign(static_cast<size_t>(n.dim_v), 0.0);
    for (int64_t j = 0; j < n.seqlen_k; ++j) {
      if (s[static_cast<size_t>(j)] == -infinity) continue;
      const double weight = std::exp(s[static_cast<size_t>(j)] - most);
      sum += weight;
      for (int64_t c = 0; c < n.dim_v; ++c) {
        const double value = weight * static_cast<double>(p.v.Get(b, kv, j, c));
        out[static_cast<size_t>(c)] += value;
        spread[static_cast<size_t>(c)] += std::fabs(value);
      }
    }
    lse = sum == 0 ? -infinity : most + std::log(sum);
    for (size_t c = 0; c < out.size() && sum > 0; ++c) {
      out[c] /= sum;
      spread[c] /= sum;
    }
  }

  bool visible = false;
  double lse;
  std::vector<double> out;
  std::vector<double> spread;  // sum of the absolute values: what rounding errors grow with
};

}  // namespace kpt::testing_util

#endif  // KPT_TESTS_KERNELS_ATTENTION_ATTENTION_TESTING_H_

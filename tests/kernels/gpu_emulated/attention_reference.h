// Attention in float64, of 16-bit tensors with gaps between their rows: what the tests of emulated
// kernels compare with.
#ifndef KPT_TESTS_KERNELS_GPU_EMULATED_ATTENTION_REFERENCE_H_
#define KPT_TESTS_KERNELS_GPU_EMULATED_ATTENTION_REFERENCE_H_

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "kernels/attention/flash_problem.h"
#include "kernels/base/float_codec.h"

namespace kpt::emulated_testing {

// [batch, heads, rows, dim] in memory order [batch, rows, heads, dim + gap], of exactly the size
// that is needed.
struct Tensor4 {
  DType dtype;
  int64_t batch, heads, rows, dim, gap;
  std::vector<uint16_t> bits;

  Tensor4(DType t, int64_t b, int64_t h, int64_t s, int64_t d, int64_t g = 0)
      : dtype(t), batch(b), heads(h), rows(s), dim(d), gap(g) {
    const int64_t all = b * h * s;
    bits.assign(static_cast<size_t>(all > 0 ? all * (d + g) - g : 0), 0xffff);
  }
  HeadStrides strides() const {
    return {rows * heads * (dim + gap), dim + gap, heads * (dim + gap)};
  }
  size_t At(int64_t b, int64_t h, int64_t s, int64_t d) const {
    const HeadStrides n = strides();
    return static_cast<size_t>(b * n.batch + h * n.head + s * n.row + d);
  }
  double Get(int64_t b, int64_t h, int64_t s, int64_t d) const {
    const uint16_t x = bits[At(b, h, s, d)];
    return dtype == DType::kFloat16 ? DecodeHalf(x) : DecodeBf16(x);
  }
  void Set(int64_t b, int64_t h, int64_t s, int64_t d, float x) {
    bits[At(b, h, s, d)] = dtype == DType::kFloat16 ? EncodeHalf(x) : EncodeBf16(x);
  }
  void Fill(std::mt19937* random, float deviation) {
    std::normal_distribution<float> normal(0.0f, deviation);
    for (int64_t b = 0; b < batch; ++b) {
      for (int64_t h = 0; h < heads; ++h) {
        for (int64_t s = 0; s < rows; ++s) {
          for (int64_t d = 0; d < dim; ++d) Set(b, h, s, d, normal(*random));
        }
      }
    }
  }
  bool GapsUntouched() const {
    for (size_t i = 0; i < bits.size(); ++i) {
      if (static_cast<int64_t>(i) % (dim + gap) >= dim && bits[i] != 0xffff) return false;
    }
    return true;
  }
};

struct Sizes {
  int64_t batch, heads_q, heads_kv, seqlen_q, seqlen_k, dim, dim_v;
};

// A problem of these sizes with the tensors that it points to; options are set afterwards.
struct Attention {
  Sizes n;
  Tensor4 q, k, v, out;
  std::vector<float> lse, alibi, sinks, mask_floats;
  std::vector<uint8_t> mask_bools;
  std::vector<int32_t> q_doc, k_doc;
  FlashProblem p{};

  Attention(DType dtype, const Sizes& sizes, int64_t gap, unsigned seed)
      : n(sizes),
        q(dtype, n.batch, n.heads_q, n.seqlen_q, n.dim, gap),
        k(dtype, n.batch, n.heads_kv, n.seqlen_k, n.dim, gap),
        v(dtype, n.batch, n.heads_kv, n.seqlen_k, n.dim_v, gap),
        out(dtype, n.batch, n.heads_q, n.seqlen_q, n.dim_v, gap) {
    std::mt19937 random(seed);
    q.Fill(&random, 1.0f);
    k.Fill(&random, 1.0f);
    v.Fill(&random, 1.0f);
    lse.assign(static_cast<size_t>(n.batch * n.heads_q * n.seqlen_q), NAN);
    p.q = q.bits.data(), p.k = k.bits.data(), p.v = v.bits.data(), p.out = out.bits.data();
    p.lse = lse.data();
    p.q_stride = q.strides(), p.k_stride = k.strides(), p.v_stride = v.strides();
    p.out_stride = out.strides();
    p.lse_stride = {n.heads_q * n.seqlen_q, n.seqlen_q, 1};
    p.dtype = dtype;
    p.batch = n.batch, p.heads_q = n.heads_q, p.heads_kv = n.heads_kv;
    p.seqlen_q = n.seqlen_q, p.seqlen_k = n.seqlen_k, p.dim_qk = n.dim, p.dim_v = n.dim_v;
    p.scale = 1.0f / std::sqrt(static_cast<float>(n.dim));
    p.window_left = p.window_right = -1;
  }

  void SetAlibi() {
    for (int64_t h = 0; h < n.heads_q; ++h) alibi.push_back(0.5f / static_cast<float>(h + 1));
    p.alibi = alibi.data(), p.alibi_head_stride = 1;
  }
  void SetSinks() {
    for (int64_t h = 0; h < n.heads_q; ++h) sinks.push_back(1.0f - static_cast<float>(h));
    p.sinks = sinks.data(), p.sinks_stride = 1;
  }
  // Of every query of every head, and every key.
  void SetMask(bool additive, unsigned seed) {
    std::mt19937 random(seed);
    const int64_t all = n.batch * n.heads_q * n.seqlen_q * n.seqlen_k;
    for (int64_t i = 0; i < all; ++i) {
      const uint32_t word = random();
      mask_bools.push_back(word % 3 != 0);
      mask_floats.push_back(word % 5 == 0 ? -INFINITY
                                          : static_cast<float>(word % 1000) * 0.002f - 1.0f);
    }
    p.mask = additive ? static_cast<const void*>(mask_floats.data()) : mask_bools.data();
    p.mask_dtype = additive ? DType::kFloat32 : DType::kBool;
    p.mask_stride = {n.heads_q * n.seqlen_q * n.seqlen_k, n.seqlen_q * n.seqlen_k, n.seqlen_k};
    p.mask_key_stride = 1;
  }
  void SetDocuments(int64_t length) {
    for (int64_t b = 0; b < n.batch; ++b) {
      for (int64_t i = 0; i < n.seqlen_q; ++i) {
        q_doc.push_back(static_cast<int32_t>((i + n.seqlen_k - n.seqlen_q + 7 * b) / length));
      }
      for (int64_t j = 0; j < n.seqlen_k; ++j) {
        k_doc.push_back(static_cast<int32_t>((j + 7 * b) / length));
      }
    }
    p.q_doc = q_doc.data(), p.k_doc = k_doc.data(), p.doc_dtype = DType::kInt32;
    p.q_doc_batch = n.seqlen_q, p.q_doc_row = 1, p.k_doc_batch = n.seqlen_k, p.k_doc_row = 1;
  }

  bool Sees(int64_t b, int64_t h, int64_t i, int64_t j) const {
    const KeyRange range = VisibleKeys(p, i);
    if (j < range.begin || j >= range.end) return false;
    const size_t at = static_cast<size_t>(((b * n.heads_q + h) * n.seqlen_q + i) * n.seqlen_k + j);
    if (p.mask != nullptr && p.mask_dtype == DType::kBool && !mask_bools[at]) return false;
    if (p.mask != nullptr && p.mask_dtype != DType::kBool && mask_floats[at] == -INFINITY) {
      return false;
    }
    return p.q_doc == nullptr || q_doc[static_cast<size_t>(b * n.seqlen_q + i)] ==
                                     k_doc[static_cast<size_t>(b * n.seqlen_k + j)];
  }
  double Dot(int64_t b, int64_t h, int64_t i, int64_t j) const {
    double dot = 0.0;
    for (int64_t d = 0; d < n.dim; ++d) {
      dot += q.Get(b, h, i, d) * k.Get(b, h / (n.heads_q / n.heads_kv), j, d);
    }
    return dot;
  }
  // Of a visible pair.
  double Score(int64_t b, int64_t h, int64_t i, int64_t j, double dot) const {
    double s = p.scale * dot;
    if (p.softcap > 0.0f) s = p.softcap * std::tanh(s / p.softcap);
    const size_t at = static_cast<size_t>(((b * n.heads_q + h) * n.seqlen_q + i) * n.seqlen_k + j);
    if (p.mask != nullptr && p.mask_dtype != DType::kBool) s += mask_floats[at];
    if (p.alibi != nullptr) {
      s -= static_cast<double>(alibi[static_cast<size_t>(h)]) *
           std::fabs(static_cast<double>(i + n.seqlen_k - n.seqlen_q - j));
    }
    return s;
  }
  // The weights of query i, 0 where hidden; lse.
  std::vector<double> Weights(int64_t b, int64_t h, int64_t i, double* log_sum) const {
    std::vector<double> s(static_cast<size_t>(n.seqlen_k), -INFINITY);
    double most = p.sinks != nullptr ? sinks[static_cast<size_t>(h)] : -INFINITY;
    for (int64_t j = 0; j < n.seqlen_k; ++j) {
      if (!Sees(b, h, i, j)) continue;
      s[static_cast<size_t>(j)] = Score(b, h, i, j, Dot(b, h, i, j));
      most = std::fmax(most, s[static_cast<size_t>(j)]);
    }
    double sum = p.sinks != nullptr ? std::exp(sinks[static_cast<size_t>(h)] - most) : 0.0;
    for (double& x : s) {
      x = x == -INFINITY ? 0.0 : std::exp(x - most);
      sum += x;
    }
    for (double& x : s) x = sum == 0.0 ? 0.0 : x / sum;
    *log_sum = sum == 0.0 ? -INFINITY : most + std::log(sum);
    return s;
  }
};

}  // namespace kpt::emulated_testing

#endif  // KPT_TESTS_KERNELS_GPU_EMULATED_ATTENTION_REFERENCE_H_

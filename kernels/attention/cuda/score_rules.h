// What happens to a score between q k^T and the softmax, for all attention kernels: scale, softcap,
// mask, ALiBi, documents, and what is hidden. Scores come out times log2(e), for powers of 2.
//
// A warp holds 16 rows of scores as fragments of mma.h: lane l has keys 8 n + 2 (l % 4) and the one
// after it of rows l / 4 and l / 4 + 8. What a thread knows of each of its two rows is a ScoreRow.
#ifndef KPT_KERNELS_ATTENTION_CUDA_SCORE_RULES_H_
#define KPT_KERNELS_ATTENTION_CUDA_SCORE_RULES_H_

#include "kernels/attention/flash_problem.h"
#include "kernels/base/cuda/mma.h"
#include "kernels/base/gpu/math.h"

namespace kpt::gpu {

KPT_DEVICE float NegativeInfinity() { return BitsToFloat(0xff800000u); }

struct ScoreRow {
  int begin, end;    // keys that the position rules leave
  int position;      // of the query among the keys
  float slope;       // of ALiBi, times log2(e)
  int64_t mask;      // offset of its row
  int64_t document;  // where documents are given
};

KPT_DEVICE int64_t DocumentAt(const void* documents, DType dtype, int64_t at) {
  return dtype == DType::kInt32 ? static_cast<const int32_t*>(documents)[at]
                                : static_cast<const int64_t*>(documents)[at];
}

// Of query `query` of head `head`.
KPT_DEVICE ScoreRow MakeScoreRow(const FlashProblem& p, int64_t batch, int64_t head,
                                 int64_t query) {
  const KeyRange keys = VisibleKeys(p, query);
  ScoreRow row;
  row.begin = static_cast<int>(keys.begin);
  row.end = static_cast<int>(keys.end);
  row.position = static_cast<int>(query + p.seqlen_k - p.seqlen_q);
  row.slope = 0.0f;
  if (p.alibi != nullptr) {
    row.slope = p.alibi[batch * p.alibi_batch_stride + head * p.alibi_head_stride] * kLog2E;
  }
  row.mask = batch * p.mask_stride.batch + head * p.mask_stride.head + query * p.mask_stride.row;
  row.document = 0;
  if (p.q_doc != nullptr) {
    row.document = DocumentAt(p.q_doc, p.doc_dtype, batch * p.q_doc_batch + query * p.q_doc_row);
  }
  return row;
}

KPT_DEVICE bool IsBoolMask(const FlashProblem& p) {
  return p.mask != nullptr && p.mask_dtype == DType::kBool;
}

// Whether a rule other than those of position can hide a key.
KPT_DEVICE bool HidesByData(const FlashProblem& p) { return IsBoolMask(p) || p.q_doc != nullptr; }

KPT_DEVICE bool SeesKey(const FlashProblem& p, int64_t batch, const ScoreRow& row, int key) {
  if (key < row.begin || key >= row.end) return false;
  if (IsBoolMask(p) &&
      static_cast<const uint8_t*>(p.mask)[row.mask + key * p.mask_key_stride] == 0) {
    return false;
  }
  return p.q_doc == nullptr ||
         DocumentAt(p.k_doc, p.doc_dtype, batch * p.k_doc_batch + key * p.k_doc_row) ==
             row.document;
}

// Bit 4 n + 2 r + e: whether row r of the thread sees key first + 8 n + 2 (lane % 4) + e.
template <int kKeys>
KPT_DEVICE uint32_t VisibleBits(const FlashProblem& p, int64_t batch, const ScoreRow (&rows)[2],
                                int first) {
  static_assert(kKeys <= 64);
  uint32_t bits = 0;
  const int key0 = first + ThreadIndex() % 4 * 2;
#pragma unroll 1  // else the masks of all 64 keys are on their way at once, and need registers
  for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const bool sees = SeesKey(p, batch, rows[i / 2], key0 + 8 * n + i % 2);
      bits |= static_cast<uint32_t>(sees) << (4 * n + i);
    }
  }
  return bits;
}

// tanh by a power of 2: absolute errors of 1e-7, which scores of tens cannot show.
KPT_DEVICE float ScoreTanh(float x) {
  return 1.0f - 2.0f * FastReciprocal(1.0f + FastExp2(x * (2.0f * kLog2E)));
}

KPT_DEVICE float MaskValue(const FlashProblem& p, int64_t at) {
  switch (p.mask_dtype) {
    case DType::kFloat32:
      return static_cast<const float*>(p.mask)[at];
    case DType::kFloat16:
      return FloatOf(static_cast<const Float16*>(p.mask)[at]);
    default:
      return FloatOf(static_cast<const BFloat16*>(p.mask)[at]);
  }
}

// The score of a visible key from dot(q, k), times log2(e). `slope`: with softcap, d score / d dot
// over the scale; else left alone. What a mask says of a key that is not `seen` is not read: there
// may be none.
KPT_DEVICE float Score(const FlashProblem& p, const ScoreRow& row, int key, float dot,
                       float* slope = nullptr, bool seen = true) {
  float s = dot * (p.scale * kLog2E);
  if (p.softcap > 0.0f) {
    const float t = ScoreTanh(dot * (p.scale / p.softcap));
    s = t * (p.softcap * kLog2E);
    if (slope != nullptr) *slope = 1.0f - t * t;
  }
  if (seen && p.mask != nullptr && p.mask_dtype != DType::kBool) {
    s += MaskValue(p, row.mask + key * p.mask_key_stride) * kLog2E;
  }
  if (p.alibi != nullptr) {
    const int distance = row.position - key;
    s -= row.slope * static_cast<float>(distance < 0 ? -distance : distance);
  }
  return s;
}

// Whether Score is more than a product with the scale: such kernels are compiled apart, since they
// take more registers.
[[maybe_unused]] static inline bool HasScoreTerms(const FlashProblem& p) {
  return p.softcap > 0.0f || p.alibi != nullptr ||
         (p.mask != nullptr && p.mask_dtype != DType::kBool);
}

// Dots of a warp's 16 rows with kKeys keys to scores; `visible` as of VisibleBits.
template <int kKeys>
KPT_DEVICE void MakeScores(const FlashProblem& p, const ScoreRow (&rows)[2], int first,
                           uint32_t visible, float (&s)[kKeys / 8][4]) {
  const int key0 = first + ThreadIndex() % 4 * 2;
#pragma unroll
  for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      s[n][i] = (visible >> (4 * n + i) & 1) != 0
                    ? Score(p, rows[i / 2], key0 + 8 * n + i % 2, s[n][i])
                    : NegativeInfinity();
    }
  }
}

// The same where scores have no terms.
template <int kKeys>
KPT_DEVICE void ScaleScores(const FlashProblem& p, uint32_t visible, float (&s)[kKeys / 8][4]) {
  const float scale = p.scale * kLog2E;
#pragma unroll
  for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) s[n][i] *= scale;
  }
  if (visible == ~0u) return;
#pragma unroll
  for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if ((visible >> (4 * n + i) & 1) == 0) s[n][i] = NegativeInfinity();
    }
  }
}

}  // namespace kpt::gpu

#endif  // KPT_KERNELS_ATTENTION_CUDA_SCORE_RULES_H_

// Additive biases of a row of scores: mask, ALiBi, documents. See attention_forward.h.
//
// Included by files compiled once per instruction set: everything lies in KPT_SIMD_NS.
#ifndef KPT_KERNELS_ATTENTION_CPU_FLASH_BIAS_H_
#define KPT_KERNELS_ATTENTION_CPU_FLASH_BIAS_H_

#include "kernels/attention/cpu/flash_block.h"

HWY_BEFORE_NAMESPACE();
namespace kpt::cpu::KPT_SIMD_NS {

template <class T>
[[maybe_unused]] static void FillAdditive(const T* mask, int64_t stride, int64_t n, float* dst) {
  if (stride == 1) {
    ConvertRow(mask, n, n, dst);
  } else {
    for (int64_t j = 0; j < n; ++j) dst[j] = hn::GetLane(LoadN(mask + j * stride, 1));
  }
}

// dst[j] = what the mask adds to the score of key begin + j.
[[maybe_unused]] static void FillMask(const FlashProblem& p, int64_t batch, int64_t head,
                                      int64_t row, int64_t begin, int64_t n, float* dst) {
  const int64_t first = batch * p.mask_stride.batch + head * p.mask_stride.head +
                        row * p.mask_stride.row + begin * p.mask_key_stride;
  const int64_t stride = p.mask_key_stride;
  if (p.mask_dtype == DType::kBool) {
    const uint8_t* mask = static_cast<const uint8_t*>(p.mask) + first;
    if (stride == 1) {
      for (int64_t j = 0; j < n; ++j) dst[j] = mask[j] != 0 ? 0.0f : kNegInf;
    } else {
      for (int64_t j = 0; j < n; ++j) dst[j] = mask[j * stride] != 0 ? 0.0f : kNegInf;
    }
  } else if (p.mask_dtype == DType::kFloat32) {
    FillAdditive(static_cast<const float*>(p.mask) + first, stride, n, dst);
  } else if (p.mask_dtype == DType::kFloat16) {
    FillAdditive(static_cast<const Half*>(p.mask) + first, stride, n, dst);
  } else {
    FillAdditive(static_cast<const BFloat16*>(p.mask) + first, stride, n, dst);
  }
}

template <class Id>
[[maybe_unused]] static void HideOtherDocuments(const FlashProblem& p, int64_t batch, int64_t row,
                                                int64_t begin, int64_t n, float* dst) {
  const Id* query = static_cast<const Id*>(p.q_doc) + batch * p.q_doc_batch;
  const Id* key = static_cast<const Id*>(p.k_doc) + batch * p.k_doc_batch + begin * p.k_doc_row;
  const Id own = query[row * p.q_doc_row];
  for (int64_t j = 0; j < n; ++j) {
    if (key[j * p.k_doc_row] != own) dst[j] = kNegInf;
  }
}

// dst[j] = everything that is added to the score of key begin + j, where rows differ.
[[maybe_unused]] static void FillRowBias(const FlashProblem& p, const FlashTask& task, int64_t head,
                                         int64_t row, int64_t begin, int64_t n, float* dst) {
  if (task.key_bias != nullptr) {
    std::memcpy(dst, task.key_bias + (begin - task.keys.begin),
                static_cast<size_t>(n) * sizeof(float));
  } else if (p.mask != nullptr) {
    FillMask(p, task.batch, head, row, begin, n, dst);
  } else {
    std::memset(dst, 0, static_cast<size_t>(n) * sizeof(float));
  }
  if (p.alibi != nullptr) {
    const float slope = p.alibi[task.batch * p.alibi_batch_stride + head * p.alibi_head_stride];
    const int64_t position = row + p.seqlen_k - p.seqlen_q;
    for (int64_t j = 0; j < n; ++j) {
      const int64_t distance = position - (begin + j);
      dst[j] -= slope * static_cast<float>(distance < 0 ? -distance : distance);
    }
  }
  if (p.q_doc != nullptr) {
    if (p.doc_dtype == DType::kInt32) {
      HideOtherDocuments<int32_t>(p, task.batch, row, begin, n, dst);
    } else {
      HideOtherDocuments<int64_t>(p, task.batch, row, begin, n, dst);
    }
  }
}

}  // namespace kpt::cpu::KPT_SIMD_NS
HWY_AFTER_NAMESPACE();

#endif  // KPT_KERNELS_ATTENTION_CPU_FLASH_BIAS_H_

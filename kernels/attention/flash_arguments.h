// Arguments of attention over whole sequences: the checks, and the problem that they describe.
#ifndef KPT_KERNELS_ATTENTION_FLASH_ARGUMENTS_H_
#define KPT_KERNELS_ATTENTION_FLASH_ARGUMENTS_H_

#include "kernels/attention/attention_options.h"
#include "kernels/attention/flash_problem.h"
#include "kernels/base/backend.h"
#include "kernels/base/status.h"
#include "kernels/base/tensor_view.h"

namespace kpt::KPT_BACKEND {

// float32, float16 or bfloat16, the same for all three.
Status CheckDtypes(const char* op, const TensorView& q, const TensorView& k, const TensorView& v);

// A multiple of the heads of k.
Status CheckHeads(const char* op, int64_t heads_q, int64_t heads_kv);

// Everything but mask and documents.
Status CheckOptions(const char* op, int64_t batch, int64_t heads, const AttentionOptions& o);

// Both or none, of one type, in these shapes.
Status CheckDocuments(const char* op, const AttentionOptions& o, const int64_t* q_shape,
                      const int64_t* k_shape, int rank);

// All of the above, and the mask, for [B, H, S, D] tensors.
Status CheckBatch(const char* op, const TensorView& q, const TensorView& k, const TensorView& v,
                  const AttentionOptions& o);

// Results are written while inputs are still read.
Status CheckOutput(const char* op, const char* arg, const MutableTensorView& out,
                   const TensorView& q, const TensorView& k, const TensorView& v,
                   const AttentionOptions& o);

// Everything but mask and documents, once the lengths are set.
void SetOptions(const AttentionOptions& o, FlashProblem* problem);

// For checked [B, H, S, D] tensors: all but what is written.
FlashProblem ResolveBatch(const TensorView& q, const TensorView& k, const TensorView& v,
                          const AttentionOptions& o);

HeadStrides StridesOf(const TensorView& t);  // of the first three dimensions

}  // namespace kpt::KPT_BACKEND

#endif  // KPT_KERNELS_ATTENTION_FLASH_ARGUMENTS_H_

// What every operator of attention over whole sequences can be asked for; the formulas are in
// attention_forward.h.
#ifndef KPT_KERNELS_ATTENTION_ATTENTION_OPTIONS_H_
#define KPT_KERNELS_ATTENTION_ATTENTION_OPTIONS_H_

#include <cstdint>
#include <optional>

#include "kernels/base/backend.h"
#include "kernels/base/tensor_view.h"

namespace kpt::KPT_BACKEND {

struct AttentionOptions {
  TensorView mask;  // broadcasts to [B, Hq, Sq, Sk], any strides; bool, float32 or q's dtype
  std::optional<float> scale;  // 1 / sqrt(D) when not given
  bool is_causal = false;
  int64_t window_left = -1;
  int64_t window_right = -1;
  float softcap = 0.0f;
  TensorView alibi_slopes;  // [Hq] or [B, Hq], float32
  TensorView sinks;         // [Hq], float32: a logit of each head that has no value
  TensorView q_doc;         // [B, Sq] and [B, Sk], both int32 or both int64; given together
  TensorView k_doc;
  int64_t prefix_len = 0;
};

}  // namespace kpt::KPT_BACKEND

#endif  // KPT_KERNELS_ATTENTION_ATTENTION_OPTIONS_H_

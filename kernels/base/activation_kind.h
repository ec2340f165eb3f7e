// The activation functions that gemm epilogues and the activation family share, by their names in
// the schemas. Formulas: kernels/activation/act.h.
#ifndef KPT_KERNELS_BASE_ACTIVATION_KIND_H_
#define KPT_KERNELS_BASE_ACTIVATION_KIND_H_

#include <cstring>

namespace kpt {

enum class ActivationKind {
  kNone,
  kRelu,
  kGelu,  // x * Phi(x), with erf
  kGeluTanh,
  kSilu,
  kSigmoid,
  kTanh,
  kQuickGelu,  // x * sigmoid(1.702 x)
  kSwiglu,     // gated pair: silu(gate) * up
  kGeglu,      // gated pair: gelu(gate) * up
};

inline bool IsGated(ActivationKind kind) {
  return kind == ActivationKind::kSwiglu || kind == ActivationKind::kGeglu;
}

// False when the name is unknown; *kind is then left as it was.
inline bool ParseActivationKind(const char* name, ActivationKind* kind) {
  struct Entry {
    const char* name;
    ActivationKind kind;
  };
  static constexpr Entry kEntries[] = {
      {"none", ActivationKind::kNone},     {"relu", ActivationKind::kRelu},
      {"gelu", ActivationKind::kGelu},     {"gelu_tanh", ActivationKind::kGeluTanh},
      {"silu", ActivationKind::kSilu},     {"sigmoid", ActivationKind::kSigmoid},
      {"tanh", ActivationKind::kTanh},     {"quick_gelu", ActivationKind::kQuickGelu},
      {"swiglu", ActivationKind::kSwiglu}, {"geglu", ActivationKind::kGeglu},
  };
  for (const Entry& e : kEntries) {
    if (std::strcmp(e.name, name) == 0) {
      *kind = e.kind;
      return true;
    }
  }
  return false;
}

}  // namespace kpt

#endif  // KPT_KERNELS_BASE_ACTIVATION_KIND_H_

// QuantFormat: what numbers are quantized to, on any backend.
#ifndef KPT_KERNELS_QUANT_QUANT_FORMAT_H_
#define KPT_KERNELS_QUANT_QUANT_FORMAT_H_

#include <cstdint>

namespace kpt {

enum class QuantFormat : uint8_t { kE4M3, kE5M2, kInt8, kInt8Asymmetric };

constexpr bool IsFp8(QuantFormat format) {
  return format == QuantFormat::kE4M3 || format == QuantFormat::kE5M2;
}

// What a thread of a GPU encodes at once: 8 codes in a row.
inline constexpr int kQuantUnit = 8;

// How a GPU's kernels make codes.
struct QuantEncoding {
  QuantFormat format = QuantFormat::kE4M3;
  bool stochastic = false;  // fp8 alone
  uint64_t seed = 0;
};

}  // namespace kpt

#endif  // KPT_KERNELS_QUANT_QUANT_FORMAT_H_

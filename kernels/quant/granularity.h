// Granularity: which elements share a scale.
//
//   kTensor        all                                 scale []
//   kRow           a row: all but the last dimension   scale [...]             x [..., K]
//   kBlock1x128    128 neighbours in a row             scale [..., ceil(K / 128)]
//   kBlock128x128  a square of 128 rows and columns    scale [..., ceil(M / 128), ceil(K / 128)]
//
// Scales are float and multiply the stored value back: x = x_q * scale. The last group of a row or
// column may be smaller.
#ifndef KPT_KERNELS_QUANT_GRANULARITY_H_
#define KPT_KERNELS_QUANT_GRANULARITY_H_

#include <cstdint>
#include <cstring>

namespace kpt {

enum class Granularity { kTensor, kRow, kBlock1x128, kBlock128x128 };

inline constexpr int64_t kScaleBlock = 128;

// False when the name is unknown; *granularity is then left as it was.
inline bool ParseGranularity(const char* name, Granularity* granularity) {
  struct Entry {
    const char* name;
    Granularity granularity;
  };
  static constexpr Entry kEntries[] = {
      {"tensor", Granularity::kTensor},
      {"row", Granularity::kRow},
      {"block1x128", Granularity::kBlock1x128},
      {"block128x128", Granularity::kBlock128x128},
  };
  for (const Entry& e : kEntries) {
    if (std::strcmp(e.name, name) == 0) {
      *granularity = e.granularity;
      return true;
    }
  }
  return false;
}

}  // namespace kpt

#endif  // KPT_KERNELS_QUANT_GRANULARITY_H_

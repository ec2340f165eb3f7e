// The functions of simd_math.h and simd_io.h as plain calls, one copy per instruction set.
#ifndef KPT_TESTS_KERNELS_SIMD_PROBE_H_
#define KPT_TESTS_KERNELS_SIMD_PROBE_H_

#include <cstdint>
#include <vector>

#include "kernels/base/activation_kind.h"
#include "kernels/base/cpu_features.h"

namespace kpt::cpu {

enum class ProbeFunction { kExp2, kExp, kSigmoid, kTanh };

struct Probe {
  const char* name;
  void (*function)(ProbeFunction f, bool fast, const float* x, float* y, int64_t n);
  void (*activate)(ActivationKind kind, bool fast, const float* x, float* y, int64_t n);
  void (*grad)(ActivationKind kind, bool fast, const float* x, float* y, int64_t n);
  // Conversions by whole vectors with MapRow; `stream` writes past the caches.
  void (*from_half)(const uint16_t* x, float* y, int64_t n);
  void (*to_half)(const float* x, uint16_t* y, int64_t n, bool stream);
  void (*from_bf16)(const uint16_t* x, float* y, int64_t n);
  void (*to_bf16)(const float* x, uint16_t* y, int64_t n, bool stream);
  void (*copy)(const float* x, float* y, int64_t n, bool stream);
};

namespace baseline {
Probe GetProbe();
}
namespace avx2 {
Probe GetProbe();
}
namespace avx512 {
Probe GetProbe();
}
namespace avx512_bf16 {
Probe GetProbe();
}

// Those that this CPU can run.
inline std::vector<Probe> Probes() {
  std::vector<Probe> probes = {baseline::GetProbe()};
#if defined(__x86_64__)
  if (DetectedIsa() >= Isa::kAvx2) probes.push_back(avx2::GetProbe());
  if (DetectedIsa() >= Isa::kAvx512) probes.push_back(avx512::GetProbe());
  if (DetectedIsa() >= Isa::kAvx512Bf16) probes.push_back(avx512_bf16::GetProbe());
#endif
  return probes;
}

}  // namespace kpt::cpu

#endif  // KPT_TESTS_KERNELS_SIMD_PROBE_H_

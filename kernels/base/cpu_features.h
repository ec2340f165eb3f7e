// What this CPU can run, as ordered levels. A kernel variant names the level it needs.
#ifndef KPT_KERNELS_BASE_CPU_FEATURES_H_
#define KPT_KERNELS_BASE_CPU_FEATURES_H_

#include <cstdint>

namespace kpt {

enum class Isa : int {
  kBaseline,    // what the compiler's default target guarantees (SSE2, NEON)
  kAvx2,        // AVX2, FMA, F16C, BMI1/2
  kAvx512,      // AVX-512 F BW VL DQ CD
  kAvx512Bf16,  // AVX-512 BF16, VNNI, VBMI, VBMI2, IFMA, BITALG, VPOPCNTDQ
  kAmx,         // AMX tiles with bf16 and int8
};
inline constexpr int kNumIsas = 5;

struct CpuFeatures {
  bool avx2 = false;
  bool fma = false;
  bool f16c = false;
  bool avx512f = false;
  bool avx512bw = false;
  bool avx512vl = false;
  bool avx512dq = false;
  bool avx512cd = false;
  bool avx512_bf16 = false;
  bool avx512_vnni = false;
  bool avx512_vbmi = false;
  bool avx512_vbmi2 = false;
  bool avx512_fp16 = false;
  bool amx_tile = false;  // set only when the kernel grants the tile state to this process
  bool amx_bf16 = false;
  bool amx_int8 = false;
  int64_t l1d_bytes = 32 * 1024;  // per core; defaults where the system does not tell
  int64_t l2_bytes = 1024 * 1024;
  int64_t l3_bytes = 0;  // shared; 0 when there is none or it is not told
};

// Detected once. Asks the kernel for AMX permission (Linux arch_prctl) where CPUID has tiles.
const CpuFeatures& GetCpuFeatures();

// The highest level this CPU has in full.
Isa DetectedIsa();

// "baseline", "avx2", "avx512", "avx512_bf16", "amx".
const char* Name(Isa isa);
// False when the name is unknown; *isa is then left as it was.
bool ParseIsa(const char* name, Isa* isa);

}  // namespace kpt

#endif  // KPT_KERNELS_BASE_CPU_FEATURES_H_

#include "kernels/base/cpu_features.h"

#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace kpt {
namespace {

#if defined(__x86_64__)
bool Bit(uint32_t word, int bit) { return (word >> bit) & 1; }

uint64_t Xcr0() {
  uint32_t eax, edx;
  __asm__ volatile("xgetbv" : "=a"(eax), "=d"(edx) : "c"(0));
  return (static_cast<uint64_t>(edx) << 32) | eax;
}

// Linux hands out the 8 KiB tile state only on request; without it the first tile instruction
// is an illegal instruction.
bool RequestAmxPermission() {
#if defined(__linux__) && defined(SYS_arch_prctl)
  constexpr long kArchReqXcompPerm = 0x1023;
  constexpr long kXfeatureXtileData = 18;
  return syscall(SYS_arch_prctl, kArchReqXcompPerm, kXfeatureXtileData) == 0;
#else
  return false;
#endif
}

void DetectX86(CpuFeatures* f) {
  uint32_t a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return;
  const bool osxsave = Bit(c, 27);
  const bool fma = Bit(c, 12);
  const bool f16c = Bit(c, 29);
  if (!osxsave || !Bit(c, 28)) return;
  const uint64_t xcr0 = Xcr0();
  const bool os_avx = (xcr0 & 0x6) == 0x6;
  const bool os_avx512 = (xcr0 & 0xe6) == 0xe6;
  const bool os_amx = (xcr0 & 0x60000) == 0x60000;
  if (!os_avx || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return;
  const uint32_t max_subleaf = a;
  f->avx2 = Bit(b, 5) && Bit(b, 3) && Bit(b, 8);  // with BMI1 and BMI2
  f->fma = fma;
  f->f16c = f16c;
  if (os_avx512) {
    f->avx512f = Bit(b, 16);
    f->avx512dq = Bit(b, 17);
    f->avx512cd = Bit(b, 28);
    f->avx512bw = Bit(b, 30);
    f->avx512vl = Bit(b, 31);
    f->avx512_vbmi = Bit(c, 1) && Bit(b, 21);                 // with IFMA
    f->avx512_vbmi2 = Bit(c, 6) && Bit(c, 12) && Bit(c, 14);  // with BITALG and VPOPCNTDQ
    f->avx512_vnni = Bit(c, 11);
    f->avx512_fp16 = Bit(d, 23);
  }
  const bool amx_bf16 = Bit(d, 22), amx_tile = Bit(d, 24), amx_int8 = Bit(d, 25);
  if (os_avx512 && max_subleaf >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d)) {
    f->avx512_bf16 = Bit(a, 5);
  }
  if (os_amx && amx_tile && RequestAmxPermission()) {
    f->amx_tile = true;
    f->amx_bf16 = amx_bf16;
    f->amx_int8 = amx_int8;
  }
}
#endif

CpuFeatures Detect() {
  CpuFeatures f;
#if defined(__x86_64__)
  DetectX86(&f);
#endif
#if defined(__linux__) && defined(_SC_LEVEL1_DCACHE_SIZE)
  if (const long n = sysconf(_SC_LEVEL1_DCACHE_SIZE); n > 0) f.l1d_bytes = n;
  if (const long n = sysconf(_SC_LEVEL2_CACHE_SIZE); n > 0) f.l2_bytes = n;
  if (const long n = sysconf(_SC_LEVEL3_CACHE_SIZE); n > 0) f.l3_bytes = n;
#endif
  return f;
}

constexpr const char* kIsaNames[kNumIsas] = {"baseline", "avx2", "avx512", "avx512_bf16", "amx"};

}  // namespace

const CpuFeatures& GetCpuFeatures() {
  static const CpuFeatures features = Detect();
  return features;
}

Isa DetectedIsa() {
  const CpuFeatures& f = GetCpuFeatures();
  if (!(f.avx2 && f.fma && f.f16c)) return Isa::kBaseline;
  if (!(f.avx512f && f.avx512bw && f.avx512vl && f.avx512dq && f.avx512cd)) return Isa::kAvx2;
  if (!(f.avx512_bf16 && f.avx512_vnni && f.avx512_vbmi && f.avx512_vbmi2)) return Isa::kAvx512;
  if (!(f.amx_tile && f.amx_bf16 && f.amx_int8)) return Isa::kAvx512Bf16;
  return Isa::kAmx;
}

const char* Name(Isa isa) { return kIsaNames[static_cast<int>(isa)]; }

bool ParseIsa(const char* name, Isa* isa) {
  for (int i = 0; i < kNumIsas; ++i) {
    if (std::strcmp(name, kIsaNames[i]) == 0) {
      *isa = static_cast<Isa>(i);
      return true;
    }
  }
  return false;
}

}  // namespace kpt

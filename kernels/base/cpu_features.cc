#include "kernels/base/cpu_features.h"

#include <cstddef>
#include <cstdio>
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

#if defined(__linux__)
// The text of one file of the kernel's description of a cache; false where there is none.
template <size_t kSize>
bool ReadCacheFile(int index, const char* name, char (&text)[kSize]) {
  char path[96];
  std::snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/%s", index, name);
  FILE* file = std::fopen(path, "re");
  if (file == nullptr) return false;
  const bool ok = std::fgets(text, kSize, file) != nullptr;
  std::fclose(file);
  return ok;
}

// From the kernel's topology: sysconf answers for the whole socket on some CPUs, of which a core
// reaches one part.
void DetectCaches(CpuFeatures* f) {
  char level[16], type[32], size[32];
  for (int i = 0; ReadCacheFile(i, "level", level) && ReadCacheFile(i, "type", type) &&
                  ReadCacheFile(i, "size", size);
       ++i) {
    long count = 0;
    char unit = 0;
    if (std::strncmp(type, "Instruction", 11) == 0) continue;
    if (std::sscanf(size, "%ld%c", &count, &unit) != 2 || count <= 0) continue;
    const int64_t bytes = int64_t{count} << (unit == 'K' ? 10 : unit == 'M' ? 20 : 0);
    if (level[0] == '1') f->l1d_bytes = bytes;
    if (level[0] == '2') f->l2_bytes = bytes;
    if (level[0] == '3') f->l3_bytes = bytes;
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
#if defined(__linux__)
  DetectCaches(&f);  // better where it is there
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

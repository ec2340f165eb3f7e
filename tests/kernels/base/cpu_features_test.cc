#include "kernels/base/cpu_features.h"

#include <cstring>

#include "gtest/gtest.h"

namespace kpt {
namespace {

TEST(Isa, NamesParseBack) {
  for (int i = 0; i < kNumIsas; ++i) {
    Isa isa = Isa::kBaseline;
    EXPECT_TRUE(ParseIsa(Name(static_cast<Isa>(i)), &isa));
    EXPECT_EQ(static_cast<int>(isa), i);
  }
}

TEST(Isa, UnknownNamesLeaveTheValue) {
  for (const char* name : {"", "AVX2", "avx", "avx512_bf16 ", "amx2"}) {
    Isa isa = Isa::kAvx512;
    EXPECT_FALSE(ParseIsa(name, &isa)) << name;
    EXPECT_EQ(isa, Isa::kAvx512);
  }
}

TEST(CpuFeatures, LevelsFollowFromTheFlags) {
  const CpuFeatures& f = GetCpuFeatures();
  const Isa isa = DetectedIsa();
  if (isa >= Isa::kAvx2) {
    EXPECT_TRUE(f.avx2 && f.fma && f.f16c);
  }
  if (isa >= Isa::kAvx512) {
    EXPECT_TRUE(f.avx512f && f.avx512bw && f.avx512vl && f.avx512dq);
  }
  if (isa >= Isa::kAvx512Bf16) {
    EXPECT_TRUE(f.avx512_bf16 && f.avx512_vnni && f.avx512_vbmi);
  }
  if (isa >= Isa::kAmx) {
    EXPECT_TRUE(f.amx_tile && f.amx_bf16 && f.amx_int8);
  }
  EXPECT_GE(f.l1d_bytes, 4096);
  EXPECT_GE(f.l2_bytes, f.l1d_bytes);
  EXPECT_EQ(&f, &GetCpuFeatures());
}

#if defined(__x86_64__) && defined(__GNUC__)
TEST(CpuFeatures, AgreesWithTheCompilersView) {
  __builtin_cpu_init();
  const CpuFeatures& f = GetCpuFeatures();
  EXPECT_EQ(f.fma, __builtin_cpu_supports("fma") != 0);
  EXPECT_EQ(f.avx512f, __builtin_cpu_supports("avx512f") != 0);
  EXPECT_EQ(f.avx512bw, __builtin_cpu_supports("avx512bw") != 0);
  EXPECT_EQ(f.avx512_vnni, __builtin_cpu_supports("avx512vnni") != 0);
}
#endif

}  // namespace
}  // namespace kpt

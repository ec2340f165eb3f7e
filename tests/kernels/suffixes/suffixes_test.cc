// The name of a kernel source decides the instruction sets it is compiled for.
#include "gtest/gtest.h"
#include "tests/kernels/suffixes/instruction_sets.h"

namespace kpt {
namespace {

constexpr unsigned kAvx2Flags = kFma | kF16c | kAvx2Set;
constexpr unsigned kAvx512Flags = kAvx2Flags | kAvx512Bw | kAvx512Vl;
constexpr unsigned kAvx512Bf16Flags = kAvx512Flags | kAvx512Bf16Set | kAvx512Vnni;
constexpr unsigned kAmxFlags = kAvx512Bf16Flags | kAmxTile | kAmxInt8 | kAmxBf16;

TEST(Suffixes, OneInstructionSetEach) {
  EXPECT_EQ(kPlainFile, 0u);
  EXPECT_EQ(avx2::kFile, kAvx2Flags);
  EXPECT_EQ(avx512::kFile, kAvx512Flags);
  EXPECT_EQ(avx512_bf16::kFile, kAvx512Bf16Flags);
  EXPECT_EQ(amx::kFile, kAmxFlags);
}

TEST(Suffixes, PortableSimdIsCompiledOncePerInstructionSet) {
  EXPECT_EQ(baseline::kSimdFile, 0u);
  EXPECT_EQ(avx2::kSimdFile, kAvx2Flags);
  EXPECT_EQ(avx512::kSimdFile, kAvx512Flags);
}

}  // namespace
}  // namespace kpt

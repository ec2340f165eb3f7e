// Which instruction sets a file is compiled for, as constants (no code runs to read them).
#ifndef KPT_TESTS_KERNELS_SUFFIXES_INSTRUCTION_SETS_H_
#define KPT_TESTS_KERNELS_SUFFIXES_INSTRUCTION_SETS_H_

namespace kpt {

enum InstructionSet : unsigned {
  kFma = 1u << 0,
  kF16c = 1u << 1,
  kAvx2Set = 1u << 2,
  kAvx512Bw = 1u << 3,
  kAvx512Vl = 1u << 4,
  kAvx512Bf16Set = 1u << 5,
  kAvx512Vnni = 1u << 6,
  kAmxTile = 1u << 7,
  kAmxInt8 = 1u << 8,
  kAmxBf16 = 1u << 9,
};

namespace baseline {
extern const unsigned kSimdFile;
}
namespace avx2 {
extern const unsigned kSimdFile;
extern const unsigned kFile;
}  // namespace avx2
namespace avx512 {
extern const unsigned kSimdFile;
extern const unsigned kFile;
}  // namespace avx512
namespace avx512_bf16 {
extern const unsigned kFile;
}
namespace amx {
extern const unsigned kFile;
}
extern const unsigned kPlainFile;

}  // namespace kpt

#endif  // KPT_TESTS_KERNELS_SUFFIXES_INSTRUCTION_SETS_H_

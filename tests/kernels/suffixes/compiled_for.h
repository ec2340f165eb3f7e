// kCompiledFor: the instruction sets of the file that includes this. Differs from file to file, so
// it has no linkage.
#ifndef KPT_TESTS_KERNELS_SUFFIXES_COMPILED_FOR_H_
#define KPT_TESTS_KERNELS_SUFFIXES_COMPILED_FOR_H_

#include "tests/kernels/suffixes/instruction_sets.h"

namespace kpt {
namespace {

constexpr unsigned kCompiledFor = 0
#if defined(__FMA__)
                                  | kFma
#endif
#if defined(__F16C__)
                                  | kF16c
#endif
#if defined(__AVX2__)
                                  | kAvx2Set
#endif
#if defined(__AVX512BW__)
                                  | kAvx512Bw
#endif
#if defined(__AVX512VL__)
                                  | kAvx512Vl
#endif
#if defined(__AVX512BF16__)
                                  | kAvx512Bf16Set
#endif
#if defined(__AVX512VNNI__)
                                  | kAvx512Vnni
#endif
#if defined(__AMX_TILE__)
                                  | kAmxTile
#endif
#if defined(__AMX_INT8__)
                                  | kAmxInt8
#endif
#if defined(__AMX_BF16__)
                                  | kAmxBf16
#endif
    ;

}  // namespace
}  // namespace kpt

#endif  // KPT_TESTS_KERNELS_SUFFIXES_COMPILED_FOR_H_

// The kernels of attention_decode, one a file and instruction set.
#ifndef KPT_KERNELS_ATTENTION_CPU_DECODE_KERNELS_H_
#define KPT_KERNELS_ATTENTION_CPU_DECODE_KERNELS_H_

#include "kernels/attention/cpu/decode_problem.h"

namespace kpt::cpu {

namespace baseline {
DecodeKernel FloatDecodeKernel();
}
namespace avx2 {
DecodeKernel FloatDecodeKernel();
}
namespace avx512 {
DecodeKernel FloatDecodeKernel();
}
namespace avx512_bf16 {
DecodeKernel BFloat16DecodeKernel();  // q is bfloat16
}

}  // namespace kpt::cpu

#endif  // KPT_KERNELS_ATTENTION_CPU_DECODE_KERNELS_H_

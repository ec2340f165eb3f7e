// The row loop of softmax, one copy per instruction set.
#ifndef KPT_KERNELS_ACTIVATION_CPU_SOFTMAX_ROWS_H_
#define KPT_KERNELS_ACTIVATION_CPU_SOFTMAX_ROWS_H_

#include <cstdint>

#include "kernels/activation/softmax_job.h"

namespace kpt::cpu {

using SoftmaxRowsFn = void (*)(const SoftmaxJob& job, int64_t begin, int64_t end);

namespace baseline {
void SoftmaxRows(const SoftmaxJob& job, int64_t begin, int64_t end);
}
namespace avx2 {
void SoftmaxRows(const SoftmaxJob& job, int64_t begin, int64_t end);
}
namespace avx512 {
void SoftmaxRows(const SoftmaxJob& job, int64_t begin, int64_t end);
}
namespace avx512_bf16 {
void SoftmaxRows(const SoftmaxJob& job, int64_t begin, int64_t end);
}

}  // namespace kpt::cpu

#endif  // KPT_KERNELS_ACTIVATION_CPU_SOFTMAX_ROWS_H_

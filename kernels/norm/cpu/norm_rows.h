// The row loop that the four norms share, one copy per instruction set.
#ifndef KPT_KERNELS_NORM_CPU_NORM_ROWS_H_
#define KPT_KERNELS_NORM_CPU_NORM_ROWS_H_

#include <cstdint>

#include "kernels/norm/norm_job.h"

namespace kpt::cpu {

using NormRowsFn = void (*)(const NormJob& job, int64_t begin, int64_t end);

namespace baseline {
void NormRows(const NormJob& job, int64_t begin, int64_t end);
}
namespace avx2 {
void NormRows(const NormJob& job, int64_t begin, int64_t end);
}
namespace avx512 {
void NormRows(const NormJob& job, int64_t begin, int64_t end);
}
namespace avx512_bf16 {
void NormRows(const NormJob& job, int64_t begin, int64_t end);
}

}  // namespace kpt::cpu

#endif  // KPT_KERNELS_NORM_CPU_NORM_ROWS_H_

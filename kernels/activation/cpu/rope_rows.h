// The loop of rope, one copy per instruction set.
#ifndef KPT_KERNELS_ACTIVATION_CPU_ROPE_ROWS_H_
#define KPT_KERNELS_ACTIVATION_CPU_ROPE_ROWS_H_

#include <cstdint>

#include "kernels/activation/rope_job.h"

namespace kpt::cpu {

// Positions [begin, end) of batch * seqlen, all heads of q and k.
using RopeRowsFn = void (*)(const RopeJob& job, int64_t begin, int64_t end);

namespace baseline {
void RopeRows(const RopeJob& job, int64_t begin, int64_t end);
}
namespace avx2 {
void RopeRows(const RopeJob& job, int64_t begin, int64_t end);
}
namespace avx512 {
void RopeRows(const RopeJob& job, int64_t begin, int64_t end);
}
namespace avx512_bf16 {
void RopeRows(const RopeJob& job, int64_t begin, int64_t end);
}

}  // namespace kpt::cpu

#endif  // KPT_KERNELS_ACTIVATION_CPU_ROPE_ROWS_H_

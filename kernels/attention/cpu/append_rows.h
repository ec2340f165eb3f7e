// What kv_append is about to do, and its loop, one copy per instruction set.
#ifndef KPT_KERNELS_ATTENTION_CPU_APPEND_ROWS_H_
#define KPT_KERNELS_ATTENTION_CPU_APPEND_ROWS_H_

#include <cstdint>

#include "kernels/attention/cache_places.h"
#include "kernels/attention/cpu/flash_problem.h"
#include "kernels/base/dtype.h"

namespace kpt::cpu {

// Keys or values. Strides in elements; batch is the stride of pages where there are pages.
struct AppendSide {
  const void* in;
  HeadStrides in_stride;
  void* cache;
  HeadStrides cache_stride;
  const float* scale;  // nullptr: 1
  float* scale_out;    // nullptr: scales are not measured
  HeadStrides scale_stride;
  int64_t dim;
};

// kv_append.h with everything checked and resolved; the caches hold what stays.
struct AppendJob : CachePlaces {
  AppendSide k, v;
  Rotation rotation;  // of k
  DType dtype, cache_dtype;
  int64_t batch, heads, tokens;
};

// New tokens [begin, end) of batch * tokens, all heads.
using AppendTokensFn = void (*)(const AppendJob& job, int64_t begin, int64_t end);

namespace baseline {
void AppendTokens(const AppendJob& job, int64_t begin, int64_t end);
}
namespace avx2 {
void AppendTokens(const AppendJob& job, int64_t begin, int64_t end);
}
namespace avx512 {
void AppendTokens(const AppendJob& job, int64_t begin, int64_t end);
}

}  // namespace kpt::cpu

#endif  // KPT_KERNELS_ATTENTION_CPU_APPEND_ROWS_H_

// RopeJob: what rope is about to do, on any backend.
#ifndef KPT_KERNELS_ACTIVATION_ROPE_JOB_H_
#define KPT_KERNELS_ACTIVATION_ROPE_JOB_H_

#include <cstdint>

#include "kernels/base/dtype.h"

namespace kpt {

// A checked problem. Plain data: files of every instruction set, and kernels on
// a GPU, read it.
struct RopeJob {
  // q or k. Strides in elements, of batch, head and position.
  struct Side {
    const void* in;
    void* out;
    int64_t heads;
    int64_t in_strides[3];
    int64_t out_strides[3];
  };
  struct Table {
    const void* data;
    int64_t batch_stride;
    int64_t row_stride;
  };

  int64_t batch = 0;
  int64_t seqlen = 0;
  int64_t head_dim = 0;
  int64_t pairs = 0;
  DType dtype = DType::kFloat32;
  DType table_dtype = DType::kFloat32;
  bool interleaved = false;
  bool inverse = false;
  bool stream = false;  // on a CPU: write past the caches; every row is aligned for it
  Side sides[2];
  Table cos, sin;
};

}  // namespace kpt

#endif  // KPT_KERNELS_ACTIVATION_ROPE_JOB_H_

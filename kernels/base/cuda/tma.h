// Copies by the tensor memory accelerator, started by one thread. sm_90 and later. PTX ISA, "Data
// Movement and Conversion Instructions: Tensor copy".
#ifndef KPT_KERNELS_BASE_CUDA_TMA_H_
#define KPT_KERNELS_BASE_CUDA_TMA_H_

#include <cuda.h>

#include <cstdint>

#include "kernels/base/cuda/barrier.h"

namespace kpt::cuda {

KPT_CUDA_DEVICE void PrefetchMap(const CUtensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

// Coordinates in elements, from the innermost dimension out. The bytes of the box count towards the
// barrier (ArriveExpect), those outside the tensor too.
KPT_CUDA_DEVICE void Load(void* shared, const CUtensorMap* map, Barrier* barrier, int x, int y) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
      " [%0], [%1, {%3, %4}], [%2];" ::"r"(SharedAddress(shared)),
      "l"(map), "r"(SharedAddress(barrier)), "r"(x), "r"(y)
      : "memory");
}
KPT_CUDA_DEVICE void Load(void* shared, const CUtensorMap* map, Barrier* barrier, int x, int y,
                          int z) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes"
      " [%0], [%1, {%3, %4, %5}], [%2];" ::"r"(SharedAddress(shared)),
      "l"(map), "r"(SharedAddress(barrier)), "r"(x), "r"(y), "r"(z)
      : "memory");
}
KPT_CUDA_DEVICE void Load(void* shared, const CUtensorMap* map, Barrier* barrier, int x, int y,
                          int z, int w) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes"
      " [%0], [%1, {%3, %4, %5, %6}], [%2];" ::"r"(SharedAddress(shared)),
      "l"(map), "r"(SharedAddress(barrier)), "r"(x), "r"(y), "r"(z), "r"(w)
      : "memory");
}
// To the same place in each block of the cluster whose bit is set, each with its own barrier.
KPT_CUDA_DEVICE void LoadMulticast(void* shared, const CUtensorMap* map, Barrier* barrier, int x,
                                   int y, uint16_t blocks) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
      ".multicast::cluster [%0], [%1, {%3, %4}], [%2], %5;" ::"r"(SharedAddress(shared)),
      "l"(map), "r"(SharedAddress(barrier)), "r"(x), "r"(y), "h"(blocks)
      : "memory");
}

// Of shared memory that FenceAsyncProxy made visible. Elements outside the tensor are not written.
KPT_CUDA_DEVICE void Store(const CUtensorMap* map, const void* shared, int x, int y) {
  asm volatile(
      "cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%2, %3}], [%1];" ::"l"(map),
      "r"(SharedAddress(shared)), "r"(x), "r"(y)
      : "memory");
}
KPT_CUDA_DEVICE void Store(const CUtensorMap* map, const void* shared, int x, int y, int z, int w) {
  asm volatile(
      "cp.async.bulk.tensor.4d.global.shared::cta.bulk_group [%0, {%2, %3, %4, %5}], [%1];" ::"l"(
          map),
      "r"(SharedAddress(shared)), "r"(x), "r"(y), "r"(z), "r"(w)
      : "memory");
}
// Adds float instead of writing: a reduction in the second-level cache.
KPT_CUDA_DEVICE void StoreAdd(const CUtensorMap* map, const void* shared, int x, int y) {
  asm volatile(
      "cp.reduce.async.bulk.tensor.2d.global.shared::cta.add.bulk_group [%0, {%2, %3}], [%1];" ::
          "l"(map),
      "r"(SharedAddress(shared)), "r"(x), "r"(y)
      : "memory");
}
KPT_CUDA_DEVICE void CommitStores() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
// Until all but kPending groups have read their shared memory, which may then be written again.
template <int kPending>
KPT_CUDA_DEVICE void WaitStoresRead() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(kPending) : "memory");
}
// Until all but kPending groups are complete.
template <int kPending>
KPT_CUDA_DEVICE void WaitStores() {
  asm volatile("cp.async.bulk.wait_group %0;" ::"n"(kPending) : "memory");
}

}  // namespace kpt::cuda

#endif  // KPT_KERNELS_BASE_CUDA_TMA_H_

#include "kernels/base/scratch.h"

#include <sys/mman.h>

#include <cstdlib>

namespace kpt {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;

struct Buffer {
  void* data = nullptr;
  size_t bytes = 0;
  ~Buffer() { std::free(data); }
};

}  // namespace

void* Scratch(int slot, size_t bytes) {
  // Per OS thread, not per OpenMP thread number: two Python threads may run kernels at once.
  thread_local Buffer buffers[kScratchSlots];
  Buffer& b = buffers[slot];
  if (b.bytes >= bytes && b.data != nullptr) return b.data;
  const size_t align = bytes >= kHugePage ? kHugePage : 64;
  const size_t rounded = (bytes + align - 1) / align * align;
  std::free(b.data);
  b.data = std::aligned_alloc(align, rounded > 0 ? rounded : align);
  b.bytes = b.data != nullptr ? rounded : 0;
#if defined(MADV_HUGEPAGE)
  if (b.data != nullptr && rounded >= kHugePage) madvise(b.data, rounded, MADV_HUGEPAGE);
#endif
  return b.data;
}

}  // namespace kpt

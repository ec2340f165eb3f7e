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

size_t AlignmentOf(size_t bytes) { return bytes >= kHugePage ? kHugePage : 64; }

size_t RoundUp(size_t bytes) {
  const size_t align = AlignmentOf(bytes);
  return bytes > 0 ? (bytes + align - 1) / align * align : align;
}

// RoundUp(bytes) bytes, or nullptr.
void* Allocate(size_t bytes) {
  const size_t rounded = RoundUp(bytes);
  void* data = std::aligned_alloc(AlignmentOf(bytes), rounded);
#if defined(MADV_HUGEPAGE)
  if (data != nullptr && rounded >= kHugePage) madvise(data, rounded, MADV_HUGEPAGE);
#endif
  return data;
}

}  // namespace

void* Scratch(int slot, size_t bytes) {
  // Per OS thread, not per OpenMP thread number: two Python threads may run kernels at once.
  thread_local Buffer buffers[kScratchSlots];
  Buffer& b = buffers[slot];
  if (b.bytes >= bytes && b.data != nullptr) return b.data;
  std::free(b.data);
  b.data = Allocate(bytes);
  b.bytes = b.data != nullptr ? RoundUp(bytes) : 0;
  return b.data;
}

Temporary::Temporary(size_t bytes) : data_(Allocate(bytes)) {}
Temporary::~Temporary() { std::free(data_); }

}  // namespace kpt

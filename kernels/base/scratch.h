// Scratch memory: one growing buffer per thread and slot, kept between calls.
#ifndef KPT_KERNELS_BASE_SCRATCH_H_
#define KPT_KERNELS_BASE_SCRATCH_H_

#include <cstddef>

namespace kpt {

inline constexpr int kScratchSlots = 4;

// At least `bytes` bytes, 2 MiB-aligned from 2 MiB on (64-byte aligned below), contents undefined,
// valid until the calling thread asks for the same slot again. nullptr when there is no memory:
// check it *before* a parallel region starts writing results. Large buffers ask for huge pages,
// since panels are walked in full and 4 KiB pages would cost the TLB entries that inputs need.
void* Scratch(int slot, size_t bytes);

template <class T>
T* ScratchAs(int slot, size_t count) {
  return static_cast<T*>(Scratch(slot, count * sizeof(T)));
}

// Memory for the length of one call, for what is too large to be kept: as Scratch, but freed.
// data() is nullptr when there is none.
class Temporary {
 public:
  explicit Temporary(size_t bytes);
  ~Temporary();
  Temporary(const Temporary&) = delete;
  Temporary& operator=(const Temporary&) = delete;

  void* data() const { return data_; }

 private:
  void* data_;
};

}  // namespace kpt

#endif  // KPT_KERNELS_BASE_SCRATCH_H_

// Runs the threads of a GPU kernel on the CPU, for tests only: emulation, not a GPU.
//
// What it shows: the kernel's arithmetic (but for the last bits of approximate instructions), its
// indexing, its barriers and shuffles, for either wave size. What it cannot show: speed, registers,
// coalescing, and the memory model of a real device.
//
// Each thread of a block is a fiber; a fiber runs until it meets a barrier or a shuffle, and which
// one runs next is drawn from a seed. Besides what sanitizers see, a run fails when
//   - shared memory is read by one thread and written by another without a barrier in between,
//     read before it was written, or indexed past its end;
//   - an asynchronous copy is read before its thread has waited for it (its bytes are ones till
//   then);
//   - threads of a wave meet different shuffles, or threads of a block wait at a barrier that
//     others have passed or will never reach;
//   - a 16-byte access is not aligned.
#ifndef KPT_KERNELS_BASE_GPU_EMULATOR_EMULATOR_H_
#define KPT_KERNELS_BASE_GPU_EMULATOR_EMULATOR_H_

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <string>

#if !defined(KPT_EMULATED_WAVE)
#error "KPT_EMULATED_WAVE must say how many threads a wave has: 32 or 64"
#endif

namespace kpt::gpu::emulator {

inline constexpr int kWave = KPT_EMULATED_WAVE;
static_assert(kWave == 32 || kWave == 64);

// Runs `body` once per thread of each of `blocks` blocks, which have `dynamic_bytes` of dynamic
// shared memory. Empty when nothing was wrong, else the first fault, with the kernel's name.
std::string Run(const char* kernel, int64_t blocks, int threads, int64_t dynamic_bytes,
                const std::function<void()>& body);

// The order in which fibers run; tests run a kernel under several and compare bits.
void SetSeed(uint32_t seed);

// The running thread.
int ThreadIndex();
int BlockThreads();
int64_t BlockIndex();
int64_t GridBlocks();
void SyncBlock();
uint32_t ShuffleXor(uint32_t bits, int mask);
int64_t DynamicBytes();
// What every lane of the wave gave, one after another; valid until the thread's next exchange.
const std::byte* Exchange(const void* data, int bytes);

// Asynchronous copies: what was started lands when the thread waits for its group.
void StartCopy(std::function<void()> land);
void CommitCopies();
void WaitCopies(int newest);  // but for the newest groups

// Ends the run with this fault. Returns only where no kernel is running.
void Fail(std::string what);

// What a block has shared, per declaration.
class SharedBase {
 public:
  virtual ~SharedBase() = default;
};
SharedBase* FindShared(const void* declaration);
void AddShared(const void* declaration, std::unique_ptr<SharedBase> shared);

// Who touched an element of shared memory last, in which interval between barriers.
struct SharedTrace {
  int64_t write_interval = -1;
  int writer = -1;
  int64_t read_interval = -1;
  int reader = -1;  // kSeveral: more than one
  static constexpr int kSeveral = -2;
};
void OnSharedRead(SharedTrace* trace, int64_t index, int64_t size);
void OnSharedWrite(SharedTrace* trace, int64_t index, int64_t size);

template <class T>
class SharedPtr {
 public:
  class Element {
   public:
    Element(const SharedPtr* array, int64_t index) : array_(array), index_(index) {}
    operator T() const {
      array_->Check(index_);
      OnSharedRead(array_->trace_ + index_, index_, array_->size_);
      return array_->data_[index_];
    }
    Element& operator=(T value) {
      array_->Check(index_);
      OnSharedWrite(array_->trace_ + index_, index_, array_->size_);
      array_->data_[index_] = value;
      return *this;
    }
    Element& operator=(const Element& other) { return *this = static_cast<T>(other); }
    Element(const Element&) = default;

   private:
    const SharedPtr* array_;
    int64_t index_;
  };

  SharedPtr(T* data, SharedTrace* trace, int64_t size) : data_(data), trace_(trace), size_(size) {}
  Element operator[](int64_t index) const { return Element(this, index); }
  SharedPtr operator+(int64_t offset) const {
    if (offset < 0 || offset > size_) Check(offset);
    return SharedPtr(data_ + offset, trace_ + offset, size_ - offset);
  }

  // The element is rubbish from now on, and `value` once the thread has waited for the copy.
  void CopyAsync(int64_t index, T value) const {
    Check(index);
    OnSharedWrite(trace_ + index, index, size_);
    std::memset(static_cast<void*>(data_ + index), 0xff, sizeof(T));
    const SharedPtr self = *this;
    StartCopy([self, index, value] {
      OnSharedWrite(self.trace_ + index, index, self.size_);
      self.data_[index] = value;
    });
  }

 private:
  friend class Element;
  void Check(int64_t index) const {
    if (index < 0 || index >= size_) {
      Fail("element " + std::to_string(index) + " of a shared array of " + std::to_string(size_));
    }
  }

  T* data_;
  SharedTrace* trace_;
  int64_t size_;
};

template <class T, int kCount>
class SharedArray : public SharedBase {
 public:
  SharedPtr<T> pointer() { return SharedPtr<T>(data_, trace_, kCount); }

 private:
  T data_[kCount];
  SharedTrace trace_[kCount];
};

template <class T, int kCount>
SharedPtr<T> Shared(const void* declaration) {
  SharedBase* found = FindShared(declaration);
  if (found == nullptr) {
    auto made = std::make_unique<SharedArray<T, kCount>>();
    found = made.get();
    AddShared(declaration, std::move(made));
  }
  return static_cast<SharedArray<T, kCount>*>(found)->pointer();
}

// The block's dynamic shared memory.
template <class T>
class DynamicArray : public SharedBase {
 public:
  explicit DynamicArray(int64_t count)
      : data_(new T[static_cast<size_t>(count)]),
        trace_(new SharedTrace[static_cast<size_t>(count)]),
        count_(count) {}
  SharedPtr<T> pointer() { return SharedPtr<T>(data_.get(), trace_.get(), count_); }

 private:
  std::unique_ptr<T[]> data_;
  std::unique_ptr<SharedTrace[]> trace_;
  int64_t count_;
};

template <class T>
SharedPtr<T> DynamicShared() {
  static const char declaration = 0;
  SharedBase* found = FindShared(&declaration);
  if (found == nullptr) {
    auto made = std::make_unique<DynamicArray<T>>(DynamicBytes() / static_cast<int64_t>(sizeof(T)));
    found = made.get();
    AddShared(&declaration, std::move(made));
  }
  return static_cast<DynamicArray<T>*>(found)->pointer();
}

}  // namespace kpt::gpu::emulator

#endif  // KPT_KERNELS_BASE_GPU_EMULATOR_EMULATOR_H_

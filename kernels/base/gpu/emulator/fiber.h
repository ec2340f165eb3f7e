// Fiber: a function with a stack of its own, entered and left by hand.
#ifndef KPT_KERNELS_BASE_GPU_EMULATOR_FIBER_H_
#define KPT_KERNELS_BASE_GPU_EMULATOR_FIBER_H_

#include <cstddef>
#include <memory>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace kpt::gpu::emulator {

// The one that a thread starts with has no stack here. Sanitizers are told of every change.
class Fiber {
 public:
  // Makes the next SwitchTo this one enter `function`, which must never return.
  void Start(void (*function)());
  // Leaves the fiber `from`, which is the running one, for this one. `for_good`: nobody will switch
  // back to `from` before it is started again.
  void SwitchFrom(Fiber* from, bool for_good = false);
  // The first thing that a started function does.
  static void Entered(Fiber* from);

 private:
#if defined(__x86_64__)
  void* stack_pointer_ = nullptr;
#else
  ucontext_t context_;
#endif
  std::unique_ptr<std::byte[]> stack_;
  const void* bottom_ = nullptr;  // as the sanitizer knows the stack
  size_t bytes_ = 0;
};

}  // namespace kpt::gpu::emulator

#endif  // KPT_KERNELS_BASE_GPU_EMULATOR_FIBER_H_

#include "kernels/base/gpu/emulator/fiber.h"

#include <cstdint>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if defined(__x86_64__)
// swapcontext asks the system for the signal mask twice a change, which costs ten times as much as
// the change: a kernel's test makes millions of them.
extern "C" void KptFiberSwitch(void** save_stack_pointer, void* stack_pointer);
asm(R"(
  .text
  .p2align 4
  .type KptFiberSwitch, @function
KptFiberSwitch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
  .size KptFiberSwitch, . - KptFiberSwitch
)");
#endif

namespace kpt::gpu::emulator {
namespace {

// The sanitizer's frames are larger.
#if defined(__SANITIZE_ADDRESS__)
constexpr size_t kStackBytes = size_t{256} << 10;
#else
constexpr size_t kStackBytes = size_t{64} << 10;
#endif

}  // namespace

void Fiber::Start(void (*function)()) {
  if (stack_ == nullptr) stack_.reset(new std::byte[kStackBytes]);
  bottom_ = stack_.get();
  bytes_ = kStackBytes;
#if defined(__SANITIZE_ADDRESS__)
  // A function that was left for good has left its marks.
  __asan_unpoison_memory_region(bottom_, bytes_);
#endif
#if defined(__x86_64__)
  // As if KptFiberSwitch had been called by nobody at the first instruction of `function`.
  const uintptr_t top = reinterpret_cast<uintptr_t>(stack_.get() + kStackBytes) & ~uintptr_t{15};
  void** slots = reinterpret_cast<void**>(top);
  slots[-1] = nullptr;  // where `function` would return to
  slots[-2] = reinterpret_cast<void*>(function);
  for (int i = 3; i <= 8; ++i) slots[-i] = nullptr;
  stack_pointer_ = slots - 8;
#else
  getcontext(&context_);
  context_.uc_stack.ss_sp = stack_.get();
  context_.uc_stack.ss_size = kStackBytes;
  context_.uc_link = nullptr;
  makecontext(&context_, function, 0);
#endif
}

void Fiber::SwitchFrom(Fiber* from, bool for_good) {
#if defined(__SANITIZE_ADDRESS__)
  void* fake_stack = nullptr;
  __sanitizer_start_switch_fiber(for_good ? nullptr : &fake_stack, bottom_, bytes_);
#else
  static_cast<void>(for_good);
#endif
#if defined(__x86_64__)
  KptFiberSwitch(&from->stack_pointer_, stack_pointer_);
#else
  swapcontext(&from->context_, &context_);
#endif
  // Back in `from`.
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#endif
}

void Fiber::Entered(Fiber* from) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &from->bottom_, &from->bytes_);
#else
  static_cast<void>(from);
#endif
}

}  // namespace kpt::gpu::emulator

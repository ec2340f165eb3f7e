// One native call: turns Python arguments into kernel arguments, releases the GIL around the
// kernel, and turns its Status into an exception.
//
// A family's binding reads:
//
//   m.def("act", [](nb::handle out, nb::handle x, const char* kind) {
//     Call call("act");
//     backend::ActArgs args;
//     call.Output("out", out, &args.out);
//     call.Input("x", x, &args.x);
//     args.kind = call.Activation("kind", kind);
//     return call.Run(backend::Act, args);
//   }, nb::arg("out"), nb::arg("x"), nb::arg("kind"));
//
// Outputs come first, preallocated by the caller; then the schema's arguments under their names.
#ifndef KPT_BINDINGS_BASE_CALL_H_
#define KPT_BINDINGS_BASE_CALL_H_

#include <nanobind/nanobind.h>

#include <cstddef>
#include <cstring>
#include <type_traits>

#include "bindings/base/context.h"
#include "bindings/base/control.h"
#include "bindings/base/tensor.h"
#include "kernels/base/activation_kind.h"
#include "kernels/base/backend.h"
#include "kernels/base/launch_context.h"
#include "kernels/base/status.h"

#if defined(KPT_BACKEND_IS_CUDA)
#include "bindings/cuda/on_device.h"
#endif

namespace kpt::bindings {

// Raises ValueError, TypeError, NotImplementedError, MemoryError or RuntimeError; returns when ok.
void ThrowIfError(const Status& status);

// A kernel with its arguments, and where its tensors stand in them: enough to run it again on other
// tensors of the same layouts. Holds no reference; of the tensors only the addresses change.
struct PreparedCall {
  static constexpr size_t kMaxBytes = 4096;
  static constexpr int kMaxTensors = 16;

  struct Place {
    const char* arg;   // the schema's name, or the output's
    PyObject* tensor;  // borrowed: meaningful only as long as the call's arguments live
    bool is_output;
    size_t offset;  // of the tensor's view within the arguments
  };

  const char* op = nullptr;
  Status (*run)(void (*kernel)(), const LaunchContext& ctx, const void* args) = nullptr;
  void (*kernel)() = nullptr;
  size_t bytes = 0;
  int tensors = 0;
  Place places[kMaxTensors];
  alignas(std::max_align_t) unsigned char args[kMaxBytes];
};

// The last call that this thread ran to its end. GIL held.
PreparedCall& LastCall();

class Call {
 public:
  explicit Call(const char* op) : op_(op) {}

  // `view` must be a member of the arguments that Run is given.
  void Input(const char* arg, nanobind::handle tensor, TensorView* view,
             Layout layout = Layout::kDenseLast) {
    int device = 0;
    *view = ViewOf(tensor, op_, arg, layout, &device);
    Remember(arg, tensor, view, false, device);
  }
  // None leaves a view that is not present().
  void OptionalInput(const char* arg, nanobind::handle tensor, TensorView* view,
                     Layout layout = Layout::kDenseLast) {
    if (!tensor.is_none()) Input(arg, tensor, view, layout);
  }
  void Output(const char* arg, nanobind::handle tensor, MutableTensorView* view,
              Layout layout = Layout::kDenseLast) {
    int device = 0;
    *view = ViewOf(tensor, op_, arg, layout, &device);
    Remember(arg, tensor, view, true, device);
  }
  ActivationKind Activation(const char* arg, const char* name);

  // Runs kernel(ctx, args) without the GIL; the name of the variant that ran. On a GPU the tensors'
  // device is current meanwhile, and `workspace` says how many bytes of it the kernel wants.
  template <class Args>
  nanobind::str Run(Status (*kernel)(const LaunchContext&, const Args&), const Args& args,
                    int64_t (*workspace)(const LaunchContext&, const Args&) = nullptr) {
    static_assert(std::is_trivially_copyable_v<Args> && sizeof(Args) <= PreparedCall::kMaxBytes);
    LaunchRecord record;
    LaunchContext ctx = MakeContext(op_);
    ctx.record = &record;
#if defined(KPT_BACKEND_IS_CUDA)
    OnDevice on_device(op_, taken_[0].tensor, device_, &ctx);
    if (workspace != nullptr) on_device.AddWorkspace(workspace(ctx, args), &ctx);
#else
    static_cast<void>(workspace);
#endif
    Status status;
    {
      nanobind::gil_scoped_release unlocked;
      status = kernel(ctx, args);
    }
    ThrowIfError(status);
    PreparedCall& last = LastCall();
    last.op = op_;
    last.run = [](void (*any)(), const LaunchContext& context, const void* bytes) {
      return reinterpret_cast<Status (*)(const LaunchContext&, const Args&)>(any)(
          context, *static_cast<const Args*>(bytes));
    };
    last.kernel = reinterpret_cast<void (*)()>(kernel);
    last.bytes = sizeof(Args);
    last.tensors = tensors_;
    std::memcpy(last.args, &args, sizeof(Args));
    for (int i = 0; i < tensors_; ++i) {
      const Taken& t = taken_[i];
      last.places[i] = {t.arg, t.tensor, t.is_output,
                        static_cast<size_t>(reinterpret_cast<const char*>(t.view) -
                                            reinterpret_cast<const char*>(&args))};
    }
    // An empty problem may return before any variant is chosen.
    return nanobind::str(record.variant != nullptr ? record.variant : "empty");
  }

 private:
  struct Taken {
    const char* arg;
    PyObject* tensor;
    const TensorView* view;
    bool is_output;
  };

  void Remember(const char* arg, nanobind::handle tensor, const TensorView* view, bool is_output,
                int device);

  const char* op_;
  int device_ = 0;  // the first tensor's
  int tensors_ = 0;
  Taken taken_[PreparedCall::kMaxTensors];
};

}  // namespace kpt::bindings

#endif  // KPT_BINDINGS_BASE_CALL_H_

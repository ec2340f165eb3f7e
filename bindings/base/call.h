// One native call: turns Python arguments into kernel arguments, releases the GIL around the
// kernel, and turns its Status into an exception.
//
// A family's binding reads:
//
//   m.def("act", [](nb::handle out, nb::handle x, const char* kind) {
//     Call call("act");
//     cpu::ActArgs args;
//     args.out = call.Output("out", out);
//     args.x = call.Input("x", x);
//     args.kind = call.Activation("kind", kind);
//     return call.Run(cpu::Act, args);
//   }, nb::arg("out"), nb::arg("x"), nb::arg("kind"));
//
// Outputs come first, preallocated by the caller; then the schema's arguments under their names.
#ifndef KPT_BINDINGS_BASE_CALL_H_
#define KPT_BINDINGS_BASE_CALL_H_

#include <nanobind/nanobind.h>

#include "bindings/base/control.h"
#include "bindings/base/tensor.h"
#include "kernels/base/activation_kind.h"
#include "kernels/base/launch_context.h"
#include "kernels/base/status.h"

namespace kpt::bindings {

// Raises ValueError, TypeError, NotImplementedError or MemoryError; returns when ok.
void ThrowIfError(const Status& status);

class Call {
 public:
  explicit Call(const char* op) : op_(op) {}

  TensorView Input(const char* arg, nanobind::handle tensor, Layout layout = Layout::kDenseLast) {
    return ViewOf(tensor, op_, arg, layout);
  }
  // None gives a view that is not present().
  TensorView OptionalInput(const char* arg, nanobind::handle tensor,
                           Layout layout = Layout::kDenseLast) {
    if (tensor.is_none()) return TensorView();
    return ViewOf(tensor, op_, arg, layout);
  }
  MutableTensorView Output(const char* arg, nanobind::handle tensor,
                           Layout layout = Layout::kDenseLast) {
    return ViewOf(tensor, op_, arg, layout);
  }
  ActivationKind Activation(const char* arg, const char* name);

  // Runs kernel(ctx, args) without the GIL; the name of the variant that ran.
  template <class Args>
  nanobind::str Run(Status (*kernel)(const LaunchContext&, const Args&), const Args& args) {
    LaunchRecord record;
    LaunchContext ctx = MakeContext(op_);
    ctx.record = &record;
    Status status;
    {
      nanobind::gil_scoped_release unlocked;
      status = kernel(ctx, args);
    }
    ThrowIfError(status);
    // An empty problem may return before any variant is chosen.
    return nanobind::str(record.variant != nullptr ? record.variant : "empty");
  }

 private:
  const char* op_;
};

}  // namespace kpt::bindings

#endif  // KPT_BINDINGS_BASE_CALL_H_

// The activation family: act, act_backward, act_mul, softmax.
#include <nanobind/nanobind.h>

#include "bindings/base/call.h"
#include "bindings/families.h"
#include "kernels/activation/act.h"
#include "kernels/activation/act_backward.h"
#include "kernels/activation/act_mul.h"
#include "kernels/activation/softmax.h"

namespace kpt::bindings {
namespace nb = nanobind;

void BindActivation(nb::module_& m) {
  AddVariants("act", backend::ActVariants());
  m.def(
      "act",
      [](nb::handle out, nb::handle x, const char* kind) {
        Call call("act");
        backend::ActArgs args;
        call.Output("out", out, &args.out);
        call.Input("x", x, &args.x);
        args.kind = call.Activation("kind", kind);
        return call.Run(backend::Act, args);
      },
      nb::arg("out"), nb::arg("x"), nb::arg("kind"));

  AddVariants("act_backward", backend::ActBackwardVariants());
  m.def(
      "act_backward",
      [](nb::handle grad_x, nb::handle grad_out, nb::handle x, const char* kind) {
        Call call("act_backward");
        backend::ActBackwardArgs args;
        call.Output("grad_x", grad_x, &args.grad_x);
        call.Input("grad_out", grad_out, &args.grad_out);
        call.Input("x", x, &args.x);
        args.kind = call.Activation("kind", kind);
        return call.Run(backend::ActBackward, args);
      },
      nb::arg("grad_x"), nb::arg("grad_out"), nb::arg("x"), nb::arg("kind"));

  AddVariants("act_mul", backend::ActMulVariants());
  m.def(
      "act_mul",
      [](nb::handle out, nb::handle gate_up, const char* kind) {
        Call call("act_mul");
        backend::ActMulArgs args;
        call.Output("out", out, &args.out);
        call.Input("gate_up", gate_up, &args.gate_up);
        args.kind = call.Activation("kind", kind);
        return call.Run(backend::ActMul, args);
      },
      nb::arg("out"), nb::arg("gate_up"), nb::arg("kind"));

  AddVariants("softmax", backend::SoftmaxVariants());
  m.def(
      "softmax",
      [](nb::handle out, nb::handle x, double scale) {
        Call call("softmax");
        backend::SoftmaxArgs args;
        call.Output("out", out, &args.out);
        call.Input("x", x, &args.x);
        args.scale = static_cast<float>(scale);
        return call.Run(backend::Softmax, args);
      },
      nb::arg("out"), nb::arg("x"), nb::arg("scale"));
}

}  // namespace kpt::bindings

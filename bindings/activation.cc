// The activation family: act, act_backward, act_mul, softmax.
#include <nanobind/nanobind.h>

#include "bindings/base/call.h"
#include "bindings/families.h"
#include "kernels/activation/act.h"

namespace kpt::bindings {
namespace nb = nanobind;

void BindActivation(nb::module_& m) {
  AddVariants("act", cpu::ActVariants());
  m.def(
      "act",
      [](nb::handle out, nb::handle x, const char* kind) {
        Call call("act");
        cpu::ActArgs args;
        args.out = call.Output("out", out);
        args.x = call.Input("x", x);
        args.kind = call.Activation("kind", kind);
        return call.Run(cpu::Act, args);
      },
      nb::arg("out"), nb::arg("x"), nb::arg("kind"));
}

}  // namespace kpt::bindings

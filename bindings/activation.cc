// The activation family: act, act_mul, softmax and their gradients, rope.
#include <nanobind/nanobind.h>

#include "bindings/base/call.h"
#include "bindings/families.h"
#include "kernels/activation/act.h"
#include "kernels/activation/act_backward.h"
#include "kernels/activation/act_mul.h"
#include "kernels/activation/act_mul_backward.h"
#include "kernels/activation/rope.h"
#include "kernels/activation/softmax.h"
#include "kernels/activation/softmax_backward.h"

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

  AddVariants("act_mul_backward", backend::ActMulBackwardVariants());
  m.def(
      "act_mul_backward",
      [](nb::handle grad_gate_up, nb::handle grad_out, nb::handle gate_up, const char* kind) {
        Call call("act_mul_backward");
        backend::ActMulBackwardArgs args;
        call.Output("grad_gate_up", grad_gate_up, &args.grad_gate_up);
        call.Input("grad_out", grad_out, &args.grad_out);
        call.Input("gate_up", gate_up, &args.gate_up);
        args.kind = call.Activation("kind", kind);
        return call.Run(backend::ActMulBackward, args);
      },
      nb::arg("grad_gate_up"), nb::arg("grad_out"), nb::arg("gate_up"), nb::arg("kind"));

  AddVariants("softmax_backward", backend::SoftmaxBackwardVariants());
  m.def(
      "softmax_backward",
      [](nb::handle grad_x, nb::handle grad_out, nb::handle out, double scale) {
        Call call("softmax_backward");
        backend::SoftmaxBackwardArgs args;
        call.Output("grad_x", grad_x, &args.grad_x);
        call.Input("grad_out", grad_out, &args.grad_out);
        call.Input("out", out, &args.out);
        args.scale = static_cast<float>(scale);
        return call.Run(backend::SoftmaxBackward, args);
      },
      nb::arg("grad_x"), nb::arg("grad_out"), nb::arg("out"), nb::arg("scale"));

  AddVariants("rope", backend::RopeVariants());
  m.def(
      "rope",
      [](nb::handle out_q, nb::handle out_k, nb::handle q, nb::handle k, nb::handle cos,
         nb::handle sin, bool interleaved, bool inverse) {
        Call call("rope");
        backend::RopeArgs args;
        call.Output("out_q", out_q, &args.out_q);
        call.Output("out_k", out_k, &args.out_k);
        call.Input("q", q, &args.q);
        call.Input("k", k, &args.k);
        call.Input("cos", cos, &args.cos);
        call.Input("sin", sin, &args.sin);
        args.interleaved = interleaved;
        args.inverse = inverse;
        return call.Run(backend::Rope, args);
      },
      nb::arg("out_q"), nb::arg("out_k"), nb::arg("q"), nb::arg("k"), nb::arg("cos"),
      nb::arg("sin"), nb::arg("interleaved"), nb::arg("inverse"));
}

}  // namespace kpt::bindings

// The moe family: moe_route, moe_dispatch, moe_combine and the gradients. moe_ffn, which is made of
// matrix products, is bound with those.
#include <nanobind/nanobind.h>

#include <string>

#include "bindings/base/call.h"
#include "bindings/families.h"
#include "kernels/moe/moe_combine.h"
#include "kernels/moe/moe_dispatch.h"
#include "kernels/moe/moe_route.h"

namespace kpt::bindings {
namespace nb = nanobind;
namespace {

RouteScore ScoreOf(const char* op, const char* name) {
  RouteScore score;
  if (!ParseRouteScore(name, &score)) {
    throw nb::value_error(
        (std::string(op) + ": argument 'score' must be softmax or sigmoid, got '" + name + "'")
            .c_str());
  }
  return score;
}

}  // namespace

void BindMoe(nb::module_& m) {
  AddVariants("moe_route", cpu::MoeRouteVariants());
  m.def(
      "moe_route",
      [](nb::handle weights, nb::handle indices, nb::handle logits, int64_t, const char* score,
         bool renormalize, nb::handle bias, int64_t num_groups, int64_t top_groups, double scale) {
        Call call("moe_route");
        cpu::MoeRouteArgs args;
        call.Output("weights", weights, &args.weights);
        call.Output("indices", indices, &args.indices);
        call.Input("logits", logits, &args.logits);
        call.OptionalInput("bias", bias, &args.bias);
        args.score = ScoreOf("moe_route", score);
        args.renormalize = renormalize;
        args.num_groups = num_groups;
        args.top_groups = top_groups;
        args.scale = static_cast<float>(scale);
        return call.Run(cpu::MoeRoute, args);
      },
      nb::arg("weights"), nb::arg("indices"), nb::arg("logits"), nb::arg("top_k"), nb::arg("score"),
      nb::arg("renormalize"), nb::arg("bias").none(), nb::arg("num_groups"), nb::arg("top_groups"),
      nb::arg("scale"));

  AddVariants("moe_route_backward", cpu::MoeRouteBackwardVariants());
  m.def(
      "moe_route_backward",
      [](nb::handle grad_logits, nb::handle grad_weights, nb::handle logits, nb::handle indices,
         const char* score, bool renormalize, double scale) {
        Call call("moe_route_backward");
        cpu::MoeRouteBackwardArgs args;
        call.Output("grad_logits", grad_logits, &args.grad_logits);
        call.Input("grad_weights", grad_weights, &args.grad_weights);
        call.Input("logits", logits, &args.logits);
        call.Input("indices", indices, &args.indices);
        args.score = ScoreOf("moe_route_backward", score);
        args.renormalize = renormalize;
        args.scale = static_cast<float>(scale);
        return call.Run(cpu::MoeRouteBackward, args);
      },
      nb::arg("grad_logits"), nb::arg("grad_weights"), nb::arg("logits"), nb::arg("indices"),
      nb::arg("score"), nb::arg("renormalize"), nb::arg("scale"));

  AddVariants("moe_dispatch", cpu::MoeDispatchVariants());
  m.def(
      "moe_dispatch",
      [](nb::handle permuted, nb::handle offsets, nb::handle row_of, nb::handle x,
         nb::handle indices, int64_t num_experts, int64_t capacity) {
        Call call("moe_dispatch");
        cpu::MoeDispatchArgs args;
        call.Output("permuted", permuted, &args.permuted);
        call.Output("offsets", offsets, &args.offsets);
        call.Output("row_of", row_of, &args.row_of);
        call.Input("x", x, &args.x);
        call.Input("indices", indices, &args.indices);
        args.num_experts = num_experts;
        args.capacity = capacity;
        return call.Run(cpu::MoeDispatch, args);
      },
      nb::arg("permuted"), nb::arg("offsets"), nb::arg("row_of"), nb::arg("x"), nb::arg("indices"),
      nb::arg("num_experts"), nb::arg("capacity"));

  AddVariants("moe_combine", cpu::MoeCombineVariants());
  m.def(
      "moe_combine",
      [](nb::handle out, nb::handle y, nb::handle row_of, nb::handle weights) {
        Call call("moe_combine");
        cpu::MoeCombineArgs args;
        call.Output("out", out, &args.out);
        call.Input("y", y, &args.y);
        call.Input("row_of", row_of, &args.row_of);
        call.Input("weights", weights, &args.weights);
        return call.Run(cpu::MoeCombine, args);
      },
      nb::arg("out"), nb::arg("y"), nb::arg("row_of"), nb::arg("weights"));

  AddVariants("moe_combine_backward", cpu::MoeCombineBackwardVariants());
  m.def(
      "moe_combine_backward",
      [](nb::handle grad_y, nb::handle grad_weights, nb::handle grad_out, nb::handle y,
         nb::handle row_of, nb::handle weights, bool want_y, bool want_weights) {
        Call call("moe_combine_backward");
        cpu::MoeCombineBackwardArgs args;
        if (want_y) call.Output("grad_y", grad_y, &args.grad_y);
        if (want_weights) call.Output("grad_weights", grad_weights, &args.grad_weights);
        call.Input("grad_out", grad_out, &args.grad_out);
        call.Input("y", y, &args.y);
        call.Input("row_of", row_of, &args.row_of);
        call.Input("weights", weights, &args.weights);
        return call.Run(cpu::MoeCombineBackward, args);
      },
      nb::arg("grad_y"), nb::arg("grad_weights"), nb::arg("grad_out"), nb::arg("y"),
      nb::arg("row_of"), nb::arg("weights"), nb::arg("want_y"), nb::arg("want_weights"));
}

}  // namespace kpt::bindings

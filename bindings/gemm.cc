// The gemm family: linear_act, grouped_gemm and their gradients, moe_ffn, pack_weight,
// packed_linear, fp8_gemm, int8_gemm.
#include <nanobind/nanobind.h>

#include <string>

#include "bindings/base/call.h"
#include "bindings/families.h"
#include "kernels/gemm/fp8_gemm.h"
#include "kernels/gemm/grouped_gemm.h"
#include "kernels/gemm/grouped_gemm_backward.h"
#include "kernels/gemm/int8_gemm.h"
#include "kernels/gemm/linear_act.h"
#include "kernels/gemm/linear_act_backward.h"
#include "kernels/gemm/moe_ffn.h"
#include "kernels/gemm/pack_weight.h"
#include "kernels/gemm/packed_linear.h"

namespace kpt::bindings {
namespace nb = nanobind;
namespace {

PackFormat FormatOf(const char* op, const char* name) {
  PackFormat format;
  if (!ParsePackFormat(name, &format)) {
    throw nb::value_error((std::string(op) + ": argument 'format' must be one of " +
                           SupportedPackFormats() + ", got '" + name + "'")
                              .c_str());
  }
  return format;
}

bool IsMasked(const char* op, const char* layout) {
  const bool masked = std::string(layout) == "masked";
  if (!masked && std::string(layout) != "contiguous") {
    throw nb::value_error(
        (std::string(op) + ": argument 'layout' must be contiguous or masked, got '" + layout + "'")
            .c_str());
  }
  return masked;
}

PackedCompute ComputeOf(const char* name) {
  PackedCompute compute;
  if (!ParsePackedCompute(name, &compute)) {
    throw nb::value_error(
        (std::string("packed_linear: argument 'compute' must be weight_only or int8, got '") +
         name + "'")
            .c_str());
  }
  return compute;
}

}  // namespace

void BindGemm(nb::module_& m) {
  AddVariants("grouped_gemm", cpu::GroupedGemmVariants());
  m.def(
      "grouped_gemm",
      [](nb::handle out, nb::handle x, nb::handle weight, nb::handle offsets, const char* layout) {
        Call call("grouped_gemm");
        cpu::GroupedGemmArgs args;
        args.masked = IsMasked("grouped_gemm", layout);
        call.Input("x", x, &args.x);
        call.Input("weight", weight, &args.weight);
        call.Input("offsets", offsets, &args.offsets);
        call.Output("out", out, &args.out);
        return call.Run(cpu::GroupedGemm, args);
      },
      nb::arg("out"), nb::arg("x"), nb::arg("weight"), nb::arg("offsets"), nb::arg("layout"));

  AddVariants("grouped_gemm_backward", cpu::GroupedGemmBackwardVariants());
  m.def(
      "grouped_gemm_backward",
      [](nb::handle grad_x, nb::handle grad_weight, nb::handle grad_out, nb::handle x,
         nb::handle weight, nb::handle offsets, bool want_x, bool want_weight, const char* layout) {
        Call call("grouped_gemm_backward");
        cpu::GroupedGemmBackwardArgs args;
        args.masked = IsMasked("grouped_gemm_backward", layout);
        call.Input("grad_out", grad_out, &args.grad_out);
        call.Input("x", x, &args.x);
        call.Input("weight", weight, &args.weight);
        call.Input("offsets", offsets, &args.offsets);
        if (want_x) call.Output("grad_x", grad_x, &args.grad_x);
        if (want_weight) call.Output("grad_weight", grad_weight, &args.grad_weight);
        return call.Run(cpu::GroupedGemmBackward, args);
      },
      nb::arg("grad_x"), nb::arg("grad_weight"), nb::arg("grad_out"), nb::arg("x"),
      nb::arg("weight"), nb::arg("offsets"), nb::arg("want_x"), nb::arg("want_weight"),
      nb::arg("layout"));

  AddVariants("moe_ffn", cpu::MoeFfnVariants());
  m.def(
      "moe_ffn",
      [](nb::handle out, nb::handle x, nb::handle w_in, nb::handle w_out, nb::handle weights,
         nb::handle indices, const char* activation, nb::handle b_in, nb::handle b_out,
         nb::handle s_in, nb::handle s_out) {
        Call call("moe_ffn");
        cpu::MoeFfnArgs args;
        call.Input("x", x, &args.x);
        call.Input("w_in", w_in, &args.w_in);
        call.Input("w_out", w_out, &args.w_out);
        call.Input("weights", weights, &args.weights);
        call.Input("indices", indices, &args.indices);
        args.activation = call.Activation("activation", activation);
        call.OptionalInput("b_in", b_in, &args.b_in);
        call.OptionalInput("b_out", b_out, &args.b_out);
        call.OptionalInput("s_in", s_in, &args.s_in);
        call.OptionalInput("s_out", s_out, &args.s_out);
        call.Output("out", out, &args.out);
        return call.Run(cpu::MoeFfn, args);
      },
      nb::arg("out"), nb::arg("x"), nb::arg("w_in"), nb::arg("w_out"), nb::arg("weights"),
      nb::arg("indices"), nb::arg("activation"), nb::arg("b_in").none(), nb::arg("b_out").none(),
      nb::arg("s_in").none(), nb::arg("s_out").none());

  AddVariants("linear_act", cpu::LinearActVariants());
  m.def(
      "linear_act",
      [](nb::handle out, nb::handle x, nb::handle weight, nb::handle bias, const char* activation) {
        Call call("linear_act");
        cpu::LinearActArgs args;
        call.Input("x", x, &args.x);
        call.Input("weight", weight, &args.weight);
        call.OptionalInput("bias", bias, &args.bias);
        args.activation = call.Activation("activation", activation);
        call.Output("out", out, &args.out);
        return call.Run(cpu::LinearAct, args);
      },
      nb::arg("out"), nb::arg("x"), nb::arg("weight"), nb::arg("bias").none(),
      nb::arg("activation"));

  AddVariants("linear_act_forward", cpu::LinearActVariants());
  m.def(
      "linear_act_forward",
      [](nb::handle out, nb::handle t, nb::handle x, nb::handle weight, nb::handle bias,
         const char* activation) {
        Call call("linear_act_forward");
        cpu::LinearActArgs args;
        args.op = "linear_act_forward";
        call.Input("x", x, &args.x);
        call.Input("weight", weight, &args.weight);
        call.OptionalInput("bias", bias, &args.bias);
        args.activation = call.Activation("activation", activation);
        call.Output("out", out, &args.out);
        if (args.activation != ActivationKind::kNone) call.Output("t", t, &args.t);
        return call.Run(cpu::LinearAct, args);
      },
      nb::arg("out"), nb::arg("t"), nb::arg("x"), nb::arg("weight"), nb::arg("bias").none(),
      nb::arg("activation"));

  AddVariants("linear_act_backward", cpu::LinearActBackwardVariants());
  m.def(
      "linear_act_backward",
      [](nb::handle grad_x, nb::handle grad_weight, nb::handle grad_bias, nb::handle grad_out,
         nb::handle x, nb::handle weight, nb::handle bias, const char* activation, bool want_x,
         bool want_weight, bool want_bias, nb::handle t) {
        Call call("linear_act_backward");
        cpu::LinearActBackwardArgs args;
        call.Input("grad_out", grad_out, &args.grad_out);
        call.Input("x", x, &args.x);
        call.Input("weight", weight, &args.weight);
        call.OptionalInput("bias", bias, &args.bias);
        args.activation = call.Activation("activation", activation);
        call.OptionalInput("t", t, &args.t);
        if (want_x) call.Output("grad_x", grad_x, &args.grad_x);
        if (want_weight) call.Output("grad_weight", grad_weight, &args.grad_weight);
        if (want_bias && args.bias.present()) call.Output("grad_bias", grad_bias, &args.grad_bias);
        return call.Run(cpu::LinearActBackward, args);
      },
      nb::arg("grad_x"), nb::arg("grad_weight"), nb::arg("grad_bias"), nb::arg("grad_out"),
      nb::arg("x"), nb::arg("weight"), nb::arg("bias").none(), nb::arg("activation"),
      nb::arg("want_x"), nb::arg("want_weight"), nb::arg("want_bias"), nb::arg("t").none());

  AddVariants("pack_weight", cpu::PackWeightVariants());
  m.def(
      "pack_weight",
      [](nb::handle packed, nb::handle scale_out, nb::handle weight, const char* format,
         nb::handle scale, int64_t group_size, nb::handle zero_point, bool symmetric) {
        Call call("pack_weight");
        cpu::PackWeightArgs args;
        call.Input("weight", weight, &args.weight);
        args.format = FormatOf("pack_weight", format);
        call.OptionalInput("scale", scale, &args.scale);
        args.group_size = group_size;
        call.OptionalInput("zero_point", zero_point, &args.zero_point);
        args.symmetric = symmetric;
        call.Output("packed", packed, &args.packed);
        call.Output("scale_out", scale_out, &args.scale_out);
        return call.Run(cpu::PackWeight, args);
      },
      nb::arg("packed"), nb::arg("scale_out"), nb::arg("weight"), nb::arg("format"),
      nb::arg("scale").none(), nb::arg("group_size"), nb::arg("zero_point").none(),
      nb::arg("symmetric"));

  AddVariants("packed_linear", cpu::PackedLinearVariants());
  m.def(
      "packed_linear",
      [](nb::handle out, nb::handle x, nb::handle packed, nb::handle scale, int64_t out_features,
         const char* format, nb::handle bias, const char* activation, int64_t group_size,
         const char* compute) {
        Call call("packed_linear");
        cpu::PackedLinearArgs args;
        call.Input("x", x, &args.x);
        call.Input("packed", packed, &args.packed);
        call.Input("scale", scale, &args.scale);
        args.out_features = out_features;
        args.format = FormatOf("packed_linear", format);
        call.OptionalInput("bias", bias, &args.bias);
        args.activation = call.Activation("activation", activation);
        args.group_size = group_size;
        args.compute = ComputeOf(compute);
        call.Output("out", out, &args.out);
        return call.Run(cpu::PackedLinear, args);
      },
      nb::arg("out"), nb::arg("x"), nb::arg("packed"), nb::arg("scale"), nb::arg("out_features"),
      nb::arg("format"), nb::arg("bias").none(), nb::arg("activation"), nb::arg("group_size"),
      nb::arg("compute"));

  // out_dtype has done its work: out was made with it.
  AddVariants("fp8_gemm", cpu::Fp8GemmVariants());
  m.def(
      "fp8_gemm",
      [](nb::handle out, nb::handle a, nb::handle b, nb::handle scale_a, nb::handle scale_b,
         nb::handle bias, const char* activation, nb::handle /*out_dtype*/) {
        Call call("fp8_gemm");
        cpu::Fp8GemmArgs args;
        call.Input("a", a, &args.a);
        call.Input("b", b, &args.b);
        call.Input("scale_a", scale_a, &args.scale_a, Layout::kAny);
        call.Input("scale_b", scale_b, &args.scale_b, Layout::kAny);
        call.OptionalInput("bias", bias, &args.bias);
        args.activation = call.Activation("activation", activation);
        call.Output("out", out, &args.out);
        return call.Run(cpu::Fp8Gemm, args);
      },
      nb::arg("out"), nb::arg("a"), nb::arg("b"), nb::arg("scale_a"), nb::arg("scale_b"),
      nb::arg("bias").none(), nb::arg("activation"), nb::arg("out_dtype"));

  AddVariants("int8_gemm", cpu::Int8GemmVariants());
  m.def(
      "int8_gemm",
      [](nb::handle out, nb::handle a, nb::handle b, nb::handle scale_a, nb::handle scale_b,
         nb::handle bias, nb::handle /*out_dtype*/, nb::handle zero_point_a) {
        Call call("int8_gemm");
        cpu::Int8GemmArgs args;
        call.Input("a", a, &args.a);
        call.Input("b", b, &args.b);
        call.Input("scale_a", scale_a, &args.scale_a, Layout::kAny);
        call.Input("scale_b", scale_b, &args.scale_b, Layout::kAny);
        call.OptionalInput("bias", bias, &args.bias);
        call.OptionalInput("zero_point_a", zero_point_a, &args.zero_point_a, Layout::kAny);
        call.Output("out", out, &args.out);
        return call.Run(cpu::Int8Gemm, args);
      },
      nb::arg("out"), nb::arg("a"), nb::arg("b"), nb::arg("scale_a"), nb::arg("scale_b"),
      nb::arg("bias").none(), nb::arg("out_dtype"), nb::arg("zero_point_a").none());
}

}  // namespace kpt::bindings

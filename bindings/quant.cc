// The quant family: quantize_fp8, dequantize_fp8, quantize_int8, fused_norm_quantize,
// fused_act_quantize.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>

#include <cstring>
#include <optional>
#include <string>

#include "bindings/base/call.h"
#include "bindings/families.h"
#include "kernels/quant/dequantize_fp8.h"
#include "kernels/quant/fused_act_quantize.h"
#include "kernels/quant/fused_norm_quantize.h"
#include "kernels/quant/quantize_fp8.h"
#include "kernels/quant/quantize_int8.h"
#if defined(KPT_BACKEND_IS_CUDA)
#include "kernels/quant/gpu/quantize_workspace.h"
#endif

namespace kpt::bindings {
namespace nb = nanobind;
namespace {

Granularity GranularityOrThrow(const char* op, const char* name) {
  Granularity granularity;
  if (!ParseGranularity(name, &granularity)) {
    throw nb::value_error((std::string(op) +
                           ": argument 'granularity' must be tensor, row, block1x128 or "
                           "block128x128, got '" +
                           name + "'")
                              .c_str());
  }
  return granularity;
}

}  // namespace

// The dtype asked for is that of the output, which the caller has allocated.
void BindQuant(nb::module_& m) {
  AddVariants("quantize_fp8", backend::QuantizeFp8Variants());
  m.def(
      "quantize_fp8",
      [](nb::handle x_q, nb::handle scale_out, nb::handle x, nb::handle /*dtype*/,
         const char* granularity, nb::handle scale, std::optional<int64_t> stochastic_seed,
         bool return_amax) {
        Call call("quantize_fp8");
        backend::QuantizeFp8Args args;
        call.Output("x_q", x_q, &args.x_q);
        call.Output("scale_out", scale_out, &args.scale_out);
        call.Input("x", x, &args.x);
        call.OptionalInput("scale", scale, &args.scale);
        args.granularity = GranularityOrThrow("quantize_fp8", granularity);
        args.stochastic = stochastic_seed.has_value();
        args.seed = static_cast<uint64_t>(stochastic_seed.value_or(0));
        args.return_amax = return_amax;
#if defined(KPT_BACKEND_IS_CUDA)
        return call.Run(backend::QuantizeFp8, args, backend::QuantizeFp8WorkspaceBytes);
#else
        return call.Run(backend::QuantizeFp8, args);
#endif
      },
      nb::arg("x_q"), nb::arg("scale_out"), nb::arg("x"), nb::arg("dtype"), nb::arg("granularity"),
      nb::arg("scale").none(), nb::arg("stochastic_seed").none(), nb::arg("return_amax"));

  AddVariants("dequantize_fp8", backend::DequantizeFp8Variants());
  m.def(
      "dequantize_fp8",
      [](nb::handle out, nb::handle x_q, nb::handle scale, nb::handle /*dtype*/) {
        Call call("dequantize_fp8");
        backend::DequantizeFp8Args args;
        call.Output("out", out, &args.out);
        call.Input("x_q", x_q, &args.x_q);
        call.Input("scale", scale, &args.scale);
        return call.Run(backend::DequantizeFp8, args);
      },
      nb::arg("out"), nb::arg("x_q"), nb::arg("scale"), nb::arg("dtype"));

  AddVariants("quantize_int8", backend::QuantizeInt8Variants());
  m.def(
      "quantize_int8",
      [](nb::handle x_q, nb::handle scale_out, nb::handle zero_point_out, nb::handle x,
         const char* granularity, bool symmetric, nb::handle scale, nb::handle zero_point) {
        Call call("quantize_int8");
        backend::QuantizeInt8Args args;
        call.Output("x_q", x_q, &args.x_q);
        call.Output("scale_out", scale_out, &args.scale_out);
        call.Output("zero_point_out", zero_point_out, &args.zero_point_out);
        call.Input("x", x, &args.x);
        call.OptionalInput("scale", scale, &args.scale);
        call.OptionalInput("zero_point", zero_point, &args.zero_point);
        args.granularity = GranularityOrThrow("quantize_int8", granularity);
        args.symmetric = symmetric;
#if defined(KPT_BACKEND_IS_CUDA)
        return call.Run(backend::QuantizeInt8, args, backend::QuantizeInt8WorkspaceBytes);
#else
        return call.Run(backend::QuantizeInt8, args);
#endif
      },
      nb::arg("x_q"), nb::arg("scale_out"), nb::arg("zero_point_out"), nb::arg("x"),
      nb::arg("granularity"), nb::arg("symmetric"), nb::arg("scale").none(),
      nb::arg("zero_point").none());

  AddVariants("fused_norm_quantize", backend::FusedNormQuantizeVariants());
  m.def(
      "fused_norm_quantize",
      [](nb::handle y_q, nb::handle scale_out, nb::handle new_residual, nb::handle x,
         nb::handle weight, nb::handle bias, nb::handle residual, const char* norm, double eps,
         nb::handle /*dtype*/, const char* granularity, nb::handle scale) {
        Call call("fused_norm_quantize");
        backend::FusedNormQuantizeArgs args;
        args.subtract_mean = std::strcmp(norm, "layer") == 0;
        if (!args.subtract_mean && std::strcmp(norm, "rms") != 0) {
          throw nb::value_error("fused_norm_quantize: argument 'norm' must be rms or layer");
        }
        call.Output("y_q", y_q, &args.y_q);
        call.Output("scale_out", scale_out, &args.scale_out);
        call.Output("new_residual", new_residual, &args.new_residual);
        call.Input("x", x, &args.x);
        call.OptionalInput("weight", weight, &args.weight);
        call.OptionalInput("bias", bias, &args.bias);
        call.OptionalInput("residual", residual, &args.residual);
        call.OptionalInput("scale", scale, &args.scale);
        args.granularity = GranularityOrThrow("fused_norm_quantize", granularity);
        args.eps = static_cast<float>(eps);
        return call.Run(backend::FusedNormQuantize, args);
      },
      nb::arg("y_q"), nb::arg("scale_out"), nb::arg("new_residual"), nb::arg("x"),
      nb::arg("weight").none(), nb::arg("bias").none(), nb::arg("residual").none(), nb::arg("norm"),
      nb::arg("eps"), nb::arg("dtype"), nb::arg("granularity"), nb::arg("scale").none());

  AddVariants("fused_act_quantize", backend::FusedActQuantizeVariants());
  m.def(
      "fused_act_quantize",
      [](nb::handle y_q, nb::handle scale_out, nb::handle x, const char* kind, bool gated,
         nb::handle /*dtype*/, const char* granularity, nb::handle scale) {
        Call call("fused_act_quantize");
        backend::FusedActQuantizeArgs args;
        call.Output("y_q", y_q, &args.y_q);
        call.Output("scale_out", scale_out, &args.scale_out);
        call.Input("x", x, &args.x);
        call.OptionalInput("scale", scale, &args.scale);
        args.kind = call.Activation("kind", kind);
        args.gated = gated;
        args.granularity = GranularityOrThrow("fused_act_quantize", granularity);
        return call.Run(backend::FusedActQuantize, args);
      },
      nb::arg("y_q"), nb::arg("scale_out"), nb::arg("x"), nb::arg("kind"), nb::arg("gated"),
      nb::arg("dtype"), nb::arg("granularity"), nb::arg("scale").none());
}

}  // namespace kpt::bindings

// The quant family: quantize_fp8, dequantize_fp8, quantize_int8.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>

#include <optional>
#include <string>

#include "bindings/base/call.h"
#include "bindings/families.h"
#include "kernels/quant/dequantize_fp8.h"
#include "kernels/quant/quantize_fp8.h"
#include "kernels/quant/quantize_int8.h"
#if defined(KPT_BACKEND_IS_CUDA)
#include "kernels/quant/gpu/quantize_fp8.h"
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

#if !defined(KPT_BACKEND_IS_CUDA)
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
        return call.Run(backend::QuantizeInt8, args);
      },
      nb::arg("x_q"), nb::arg("scale_out"), nb::arg("zero_point_out"), nb::arg("x"),
      nb::arg("granularity"), nb::arg("symmetric"), nb::arg("scale").none(),
      nb::arg("zero_point").none());
#endif
}

}  // namespace kpt::bindings

#include "bindings/cuda/probe.h"

#include "bindings/base/call.h"
#include "kernels/probe/product.h"

namespace kpt::bindings {
namespace nb = nanobind;

void BindCudaProbe(nb::module_& m) {
  AddVariants("probe_product", backend::ProbeProductVariants());
  m.def(
      "probe_product",
      [](nb::handle out, nb::handle a, nb::handle b) {
        Call call("probe_product");
        backend::ProbeProductArgs args;
        call.Output("out", out, &args.out);
        call.Input("a", a, &args.a);
        call.Input("b", b, &args.b);
        return call.Run(backend::ProbeProduct, args);
      },
      nb::arg("out"), nb::arg("a"), nb::arg("b"));
}

}  // namespace kpt::bindings

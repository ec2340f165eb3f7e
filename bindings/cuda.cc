// The native module for NVIDIA GPUs, kernel_pytorch._native.cuda.
#include <nanobind/nanobind.h>

#include "bindings/base/context.h"
#include "bindings/base/control.h"
#include "bindings/cuda/probe.h"
#include "bindings/families.h"

NB_MODULE(cuda, m) {
  m.attr("__version__") = KPT_VERSION;
  kpt::bindings::BindContext(m);
  kpt::bindings::BindControl(m);
  kpt::bindings::BindActivation(m);
  kpt::bindings::BindAttention(m);
  kpt::bindings::BindCudaProbe(m);
  kpt::bindings::BindNorm(m);
  kpt::bindings::BindQuant(m);
}

// The CPU's native module, kernel_pytorch._native.cpu.
#include <nanobind/nanobind.h>

#include "bindings/base/context.h"
#include "bindings/base/control.h"
#include "bindings/base/repeat.h"
#include "bindings/families.h"

NB_MODULE(cpu, m) {
  m.attr("__version__") = KPT_VERSION;
  kpt::bindings::BindContext(m);
  kpt::bindings::BindControl(m);
  kpt::bindings::BindRepeat(m);
  kpt::bindings::BindActivation(m);
  kpt::bindings::BindAttention(m);
  kpt::bindings::BindGemm(m);
  kpt::bindings::BindLoss(m);
  kpt::bindings::BindMoe(m);
  kpt::bindings::BindNorm(m);
  kpt::bindings::BindProbe(m);
  kpt::bindings::BindQuant(m);
}

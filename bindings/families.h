// The families of operators, each bound by its own file.
#ifndef KPT_BINDINGS_FAMILIES_H_
#define KPT_BINDINGS_FAMILIES_H_

#include <nanobind/nanobind.h>

namespace kpt::bindings {

void BindActivation(nanobind::module_& m);
void BindAttention(nanobind::module_& m);
void BindGemm(nanobind::module_& m);
void BindLoss(nanobind::module_& m);
void BindMoe(nanobind::module_& m);
void BindNorm(nanobind::module_& m);
void BindProbe(nanobind::module_& m);
void BindQuant(nanobind::module_& m);

}  // namespace kpt::bindings

#endif  // KPT_BINDINGS_FAMILIES_H_

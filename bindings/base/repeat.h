// Calls like an earlier one: what the checks and the shape rules said of that holds for this.
//
// An operator's checks and the shapes of its outputs depend on sizes, strides and dtypes of its
// tensors and on its other arguments, never on data. So a call that agrees with a remembered one in
// all of these goes straight to its kernel, for a fraction of what the rules cost in Python.
#ifndef KPT_BINDINGS_BASE_REPEAT_H_
#define KPT_BINDINGS_BASE_REPEAT_H_

#include <nanobind/nanobind.h>

namespace kpt::bindings {

// repeatable, repeat, remember.
void BindRepeat(nanobind::module_& m);

}  // namespace kpt::bindings

#endif  // KPT_BINDINGS_BASE_REPEAT_H_

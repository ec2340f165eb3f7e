// Calls like an earlier one: what the checks and the shape rules said of that holds for this.
//
// An operator's checks, the shapes of its outputs and the arguments of its kernel depend on sizes,
// strides and dtypes of its tensors and on its other arguments, never on data. So a call that
// agrees with a remembered one in all of these is that one with other addresses: it goes straight
// to the kernel, for a fraction of what the rules cost in Python.
#ifndef KPT_BINDINGS_BASE_REPEAT_H_
#define KPT_BINDINGS_BASE_REPEAT_H_

#include <nanobind/nanobind.h>

namespace kpt::bindings {

// repeatable(op, arguments, is_tensor, notes, noted, settle) -> (remember, repeat, seconds): names
// the operator's arguments and says which are tensors; `notes` maps a variant's name to what is
// appended to the deque `noted` when it ran, and settle() empties that now and then.
//
// remember(outputs, *arguments) follows a call on this thread that passed the checks and ran.
// repeat(*arguments) returns the outputs, or None when the call must take the way with the checks.
// seconds(runs, *arguments) is the mean time of such a call's kernel, without all that surrounds
// it.
void BindRepeat(nanobind::module_& m);

}  // namespace kpt::bindings

#endif  // KPT_BINDINGS_BASE_REPEAT_H_

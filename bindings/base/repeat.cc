#include "bindings/base/repeat.h"

#include <cstring>
#include <vector>

#include "bindings/base/tensor.h"

namespace kpt::bindings {
namespace nb = nanobind;
namespace {

constexpr int kRemembered = 8;  // signatures an operator; the oldest makes room
constexpr int kMaxArguments = 24;

struct Output {
  DType dtype;
  int rank;
  int64_t shape[kMaxRank];
};

struct Signature {
  std::vector<MutableTensorView> tensors;  // without data; not present() where None was passed
  std::vector<nb::object> others;
  std::vector<Output> outputs;
};

// One operator. Guarded by the GIL; lives as long as the process.
struct Operator {
  nb::object native, record, notes, is_grad_enabled, is_neg;
  PyObject* requires_grad;  // the attribute's name
  PyTypeObject* plain[2];   // torch.Tensor and torch.nn.Parameter, no other subclass
  std::vector<bool> is_tensor;
  std::vector<Signature> signatures;
  size_t next = 0;
};

std::vector<Operator*>& Operators() {
  static auto* operators = new std::vector<Operator*>();
  return *operators;
}

bool IsTrue(nb::handle value) {
  const int truth = PyObject_IsTrue(value.ptr());
  if (truth < 0) throw nb::python_error();
  return truth == 1;
}

// Tensors of a call as views; false when one is not a plain CPU tensor that can be taken as it is.
bool ViewsOf(const Operator& op, nb::handle args, size_t first, MutableTensorView* views) {
  bool needs_grad = false;
  int count = 0;
  for (size_t i = 0; i < op.is_tensor.size(); ++i) {
    if (!op.is_tensor[i]) continue;
    PyObject* t = PyTuple_GetItem(args.ptr(), static_cast<Py_ssize_t>(first + i));
    MutableTensorView* view = &views[count++];
    *view = MutableTensorView();
    if (t == Py_None) continue;
    if (Py_TYPE(t) != op.plain[0] && Py_TYPE(t) != op.plain[1]) return false;
    const nb::object requires_grad = nb::steal(PyObject_GetAttr(t, op.requires_grad));
    if (!requires_grad.is_valid()) throw nb::python_error();
    needs_grad = needs_grad || requires_grad.ptr() == Py_True;
    // A lazily negated tensor: its memory does not hold its values.
    if (!TryView(t, view) || IsTrue(op.is_neg(nb::handle(t)))) return false;
  }
  return !needs_grad || !IsTrue(op.is_grad_enabled());
}

bool SameLayout(const TensorView& a, const TensorView& b) {
  if (a.rank != b.rank) return false;
  if (a.rank < 0) return true;
  const size_t bytes = static_cast<size_t>(a.rank) * sizeof(int64_t);
  return a.dtype == b.dtype && std::memcmp(a.shape, b.shape, bytes) == 0 &&
         std::memcmp(a.strides, b.strides, bytes) == 0;
}

bool SameValue(PyObject* a, PyObject* b) {
  if (a == b) return true;
  if (Py_TYPE(a) != Py_TYPE(b)) return false;
  const int same = PyObject_RichCompareBool(a, b, Py_EQ);
  if (same < 0) throw nb::python_error();
  return same == 1;
}

const Signature* Find(const Operator& op, nb::handle args, size_t first,
                      const MutableTensorView* views) {
  for (const Signature& s : op.signatures) {
    size_t tensor = 0, other = 0;
    bool same = true;
    for (size_t i = 0; same && i < op.is_tensor.size(); ++i) {
      if (op.is_tensor[i]) {
        same = SameLayout(s.tensors[tensor], views[tensor]);
        ++tensor;
      } else {
        same = SameValue(s.others[other].ptr(),
                         PyTuple_GetItem(args.ptr(), static_cast<Py_ssize_t>(first + i)));
        ++other;
      }
    }
    if (same) return &s;
  }
  return nullptr;
}

Operator& OperatorAt(nb::handle id) { return *Operators().at(nb::cast<size_t>(id)); }

// (id, *arguments) -> the outputs, or None when the call must take the way with the checks.
nb::object Repeat(nb::args args) {
  const Operator& op = OperatorAt(args[0]);
  const size_t count = op.is_tensor.size();
  MutableTensorView views[kMaxArguments];
  if (args.size() != count + 1 || !ViewsOf(op, args, 1, views)) return nb::none();
  const Signature* found = Find(op, args, 1, views);
  if (found == nullptr) return nb::none();
  // A copy: what is remembered may change as soon as other code runs.
  const std::vector<Output> expected = found->outputs;
  const size_t outputs = expected.size();
  const nb::object call = nb::steal(PyTuple_New(static_cast<Py_ssize_t>(outputs + count)));
  const nb::object result = nb::steal(PyTuple_New(static_cast<Py_ssize_t>(outputs)));
  if (!call.is_valid() || !result.is_valid()) throw nb::python_error();
  try {
    // A tensor stands first in every schema.
    for (size_t i = 0; i < outputs; ++i) {
      const Output& o = expected[i];
      nb::object out = NewContiguous(args[1], o.shape, o.rank, o.dtype);
      PyTuple_SetItem(result.ptr(), static_cast<Py_ssize_t>(i), nb::object(out).release().ptr());
      PyTuple_SetItem(call.ptr(), static_cast<Py_ssize_t>(i), out.release().ptr());
    }
    for (size_t i = 0; i < count; ++i) {
      PyTuple_SetItem(call.ptr(), static_cast<Py_ssize_t>(outputs + i),
                      nb::object(args[i + 1]).release().ptr());
    }
    const nb::object variant = nb::steal(PyObject_Call(op.native.ptr(), call.ptr(), nullptr));
    if (!variant.is_valid()) throw nb::python_error();
    const nb::object note = nb::steal(PyObject_GetItem(op.notes.ptr(), variant.ptr()));
    if (!note.is_valid()) throw nb::python_error();
    op.record(note);
  } catch (nb::python_error& error) {
    // No variant for it, or no memory: the way with the checks falls back, or says so.
    if (error.matches(PyExc_NotImplementedError) || error.matches(PyExc_MemoryError)) {
      return nb::none();
    }
    throw;
  }
  if (outputs == 1) return nb::borrow(PyTuple_GetItem(result.ptr(), 0));
  return result;
}

// (id, outputs, *arguments): a call that passed the checks and ran.
void Remember(nb::args args) {
  Operator& op = OperatorAt(args[0]);
  MutableTensorView views[kMaxArguments];
  if (args.size() != op.is_tensor.size() + 2 || !ViewsOf(op, args, 2, views)) return;
  if (Find(op, args, 2, views) != nullptr) return;
  Signature s;
  const nb::tuple outputs = nb::cast<nb::tuple>(args[1]);
  for (size_t i = 0; i < outputs.size(); ++i) {
    MutableTensorView view;
    if (!TryView(outputs[i], &view) || !CanAllocate(view.dtype)) return;
    Output o;
    o.dtype = view.dtype;
    o.rank = view.rank;
    int64_t dense = 1;
    for (int d = view.rank - 1; d >= 0; --d) {
      if (view.strides[d] != dense) return;  // repeated outputs are contiguous
      o.shape[d] = view.shape[d];
      dense *= view.shape[d] > 1 ? view.shape[d] : 1;
    }
    s.outputs.push_back(o);
  }
  size_t tensor = 0;
  for (size_t i = 0; i < op.is_tensor.size(); ++i) {
    if (op.is_tensor[i]) {
      views[tensor].data = nullptr;
      s.tensors.push_back(views[tensor++]);
    } else {
      s.others.push_back(nb::object(args[i + 2]));
    }
  }
  if (op.signatures.size() < kRemembered) {
    op.signatures.push_back(std::move(s));
  } else {
    op.signatures[op.next++ % kRemembered] = std::move(s);
  }
}

// Makes an operator repeatable; its id. `native` and `record` are called, `notes` is indexed with
// the variant's name; `is_tensor` says of each argument whether it is a tensor.
size_t Repeatable(nb::object native, nb::object record, nb::object notes, nb::tuple is_tensor,
                  nb::object is_grad_enabled, nb::object is_neg, nb::object tensor,
                  nb::object parameter) {
  if (is_tensor.size() > kMaxArguments) throw nb::value_error("repeatable: too many arguments");
  auto* op = new Operator();
  op->native = std::move(native);
  op->record = std::move(record);
  op->notes = std::move(notes);
  op->is_grad_enabled = std::move(is_grad_enabled);
  op->is_neg = std::move(is_neg);
  op->requires_grad = PyUnicode_InternFromString("requires_grad");
  op->plain[0] = reinterpret_cast<PyTypeObject*>(tensor.release().ptr());
  op->plain[1] = reinterpret_cast<PyTypeObject*>(parameter.release().ptr());
  for (size_t i = 0; i < is_tensor.size(); ++i) {
    op->is_tensor.push_back(nb::cast<bool>(nb::object(is_tensor[i])));
  }
  Operators().push_back(op);
  return Operators().size() - 1;
}

}  // namespace

void BindRepeat(nb::module_& m) {
  m.def("repeatable", &Repeatable, nb::arg("native"), nb::arg("record"), nb::arg("notes"),
        nb::arg("is_tensor"), nb::arg("is_grad_enabled"), nb::arg("is_neg"), nb::arg("tensor"),
        nb::arg("parameter"));
  m.def("repeat", &Repeat);
  m.def("remember", &Remember);
}

}  // namespace kpt::bindings

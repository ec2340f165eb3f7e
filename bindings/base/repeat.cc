#include "bindings/base/repeat.h"

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <memory>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "bindings/base/call.h"
#include "bindings/base/context.h"
#include "bindings/base/tensor.h"

namespace kpt::bindings {
namespace nb = nanobind;
namespace {

constexpr int kRemembered = 8;  // signatures an operator; the oldest makes room
constexpr int kMaxArguments = 24;
constexpr Py_ssize_t kSettle = 256;
// With all tensors together smaller than this a kernel takes a few microseconds: giving the GIL
// away and taking it back would cost more than another thread could gain.
constexpr int64_t kSmallBytes = 32 << 10;

// Where a tensor of the call stands in the kernel's arguments.
struct Place {
  size_t index;  // of the output, or of the argument
  bool is_output;
  size_t offset;
};

struct Signature {
  std::vector<MutableTensorView> tensors;  // without data; not present() where None was passed
  std::vector<nb::object> others;
  std::vector<nb::object> prototypes;  // the outputs' sizes, strides and dtypes, without memory
  std::vector<Place> places;
  bool is_small;
  PreparedCall call;
};

// One operator. Guarded by the GIL; lives as long as the process.
struct Operator {
  std::string name;
  std::vector<std::string> arguments;
  std::vector<bool> is_tensor;
  nb::object notes, note, noted, settle;
  // Of torch.
  nb::object is_grad_enabled, is_neg, empty_like;
  PyTypeObject* plain[2];   // Tensor and nn.Parameter, no other subclass
  PyObject* requires_grad;  // the attribute's name

  // Shared with the calls that are using them, which other threads may see replaced.
  std::vector<std::shared_ptr<const Signature>> signatures;
  size_t next = 0;
  // What to note of each variant that ran, by the address of its static name.
  std::vector<std::pair<const char*, nb::object>> records;
};

// The views of a call's tensors by argument; memory of other arguments is never touched, since
// clearing it would cost as much as reading the tensors.
class Views {
 public:
  MutableTensorView* Add(size_t i) {
    return new (bytes_ + i * sizeof(MutableTensorView)) MutableTensorView();
  }
  const MutableTensorView& operator[](size_t i) const {
    return *std::launder(
        reinterpret_cast<const MutableTensorView*>(bytes_ + i * sizeof(MutableTensorView)));
  }

 private:
  alignas(MutableTensorView) unsigned char bytes_[kMaxArguments * sizeof(MutableTensorView)];
};

bool IsTrue(nb::handle value) {
  const int truth = PyObject_IsTrue(value.ptr());
  if (truth < 0) throw nb::python_error();
  return truth == 1;
}

// False when a tensor is not a plain one on the CPU whose memory holds its values, or the call
// needs a gradient.
bool ViewsOf(const Operator& op, PyObject* const* args, Views* views) {
  const bool grad_enabled = IsTrue(op.is_grad_enabled());
  for (size_t i = 0; i < op.is_tensor.size(); ++i) {
    if (!op.is_tensor[i]) continue;
    MutableTensorView* view = views->Add(i);
    if (args[i] == Py_None) continue;
    PyTypeObject* type = Py_TYPE(args[i]);
    if (type != op.plain[0] && type != op.plain[1]) return false;
    if (grad_enabled) {
      const nb::object needs = nb::steal(PyObject_GetAttr(args[i], op.requires_grad));
      if (!needs.is_valid()) throw nb::python_error();
      if (needs.ptr() == Py_True) return false;
    }
    if (!TryView(args[i], view)) return false;
    // No memory: an empty tensor, or one that only pretends (meta, functional). A lazily negated
    // tensor's memory does not hold its values.
    if (view->data == nullptr || IsTrue(op.is_neg(nb::handle(args[i])))) return false;
    if (reinterpret_cast<uintptr_t>(view->data) % ItemSize(view->dtype) != 0) return false;
  }
  return true;
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

std::shared_ptr<const Signature> Find(const Operator& op, PyObject* const* args,
                                      const Views& views) {
  for (const auto& s : op.signatures) {
    size_t tensor = 0, other = 0;
    bool same = true;
    for (size_t i = 0; same && i < op.is_tensor.size(); ++i) {
      same = op.is_tensor[i] ? SameLayout(s->tensors[tensor++], views[i])
                             : SameValue(s->others[other++].ptr(), args[i]);
    }
    if (same) return s;
  }
  return nullptr;
}

// What is noted for a variant.
nb::object RecordOf(Operator& op, const char* variant) {
  for (const auto& [name, record] : op.records) {
    if (name == variant) return record;
  }
  const nb::str name(variant);
  nb::object record = nb::steal(PyObject_GetItem(op.notes.ptr(), name.ptr()));
  if (!record.is_valid()) throw nb::python_error();
  op.records.emplace_back(variant, record);
  return record;
}

// A new output like the prototype; not valid when there is no memory for it: the way with the
// checks says so in the operator's words.
nb::object NewOutput(const Operator& op, nb::handle prototype) {
  try {
    return op.empty_like(prototype);
  } catch (nb::python_error& error) {
    if (error.matches(PyExc_RuntimeError) || error.matches(PyExc_MemoryError)) return nb::object();
    throw;
  }
}

// The outputs and, with `seconds`, the mean time of the kernel alone over `runs`.
nb::object Repeat(Operator& op, PyObject* const* args, size_t count, int64_t runs = 1,
                  double* seconds = nullptr) {
  Views views;
  if (count != op.is_tensor.size() || !ViewsOf(op, args, &views)) return nb::none();
  const std::shared_ptr<const Signature> found = Find(op, args, views);
  if (found == nullptr) return nb::none();

  alignas(std::max_align_t) unsigned char kernel_args[PreparedCall::kMaxBytes];
  std::memcpy(kernel_args, found->call.args, found->call.bytes);
  const auto set = [&](const Place& place, const void* data) {
    reinterpret_cast<TensorView*>(kernel_args + place.offset)->data = data;
  };
  for (const Place& place : found->places) {
    if (!place.is_output) set(place, views[place.index].data);
  }
  const size_t outputs = found->prototypes.size();
  nb::object result;
  if (outputs > 1) result = nb::steal(PyTuple_New(static_cast<Py_ssize_t>(outputs)));
  for (size_t i = 0; i < outputs; ++i) {
    nb::object output = NewOutput(op, found->prototypes[i]);
    MutableTensorView view;
    if (!output.is_valid() || !TryView(output, &view)) return nb::none();
    if (view.data == nullptr && view.size() != 0) return nb::none();
    for (const Place& place : found->places) {
      if (place.is_output && place.index == i) set(place, view.data);
    }
    if (outputs == 1) {
      result = std::move(output);
    } else {
      PyTuple_SetItem(result.ptr(), static_cast<Py_ssize_t>(i), output.release().ptr());
    }
  }
  LaunchRecord record;
  LaunchContext ctx = MakeContext(op.name.c_str());
  ctx.record = &record;
  Status status;
  if (seconds != nullptr) {
    const auto start = std::chrono::steady_clock::now();
    for (int64_t i = 0; i < runs && status.ok(); ++i) {
      status = found->call.run(found->call.kernel, ctx, kernel_args);
    }
    const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - start;
    *seconds = passed.count() / static_cast<double>(runs);
  } else if (found->is_small) {
    status = found->call.run(found->call.kernel, ctx, kernel_args);
  } else {
    nb::gil_scoped_release unlocked;
    status = found->call.run(found->call.kernel, ctx, kernel_args);
  }
  // No variant for it, or no memory: the way with the checks falls back, or says so.
  if (status.code() == StatusCode::kUnimplemented ||
      status.code() == StatusCode::kResourceExhausted) {
    return nb::none();
  }
  ThrowIfError(status);
  op.note(RecordOf(op, record.variant != nullptr ? record.variant : "empty"));
  if (PyObject_Size(op.noted.ptr()) >= kSettle) op.settle();
  return result;
}

// A tensor like `output` that owns no memory.
nb::object PrototypeOf(const Operator& op, nb::handle output) {
  nb::object prototype = op.empty_like(output);
  prototype.attr("untyped_storage")().attr("resize_")(0);
  return prototype;
}

void Remember(Operator& op, nb::tuple outputs, PyObject* const* args, size_t count) {
  Views views;
  const PreparedCall& call = LastCall();
  if (call.op != op.name || count != op.is_tensor.size() || !ViewsOf(op, args, &views)) return;
  if (Find(op, args, views) != nullptr) return;

  auto s = std::make_shared<Signature>();
  s->call = call;
  for (int p = 0; p < call.tensors; ++p) {
    const PreparedCall::Place& from = call.places[p];
    bool placed = false;
    if (from.is_output) {
      for (size_t i = 0; i < outputs.size() && !placed; ++i) {
        placed = outputs[i].ptr() == from.tensor;
        if (placed) s->places.push_back({i, true, from.offset});
      }
    } else {
      for (size_t i = 0; i < count && !placed; ++i) {
        placed = op.arguments[i] == from.arg && args[i] == from.tensor;
        if (placed) s->places.push_back({i, false, from.offset});
      }
    }
    if (!placed) return;  // another call than this one
  }
  int64_t bytes = 0;
  for (size_t i = 0; i < outputs.size(); ++i) {
    s->prototypes.push_back(PrototypeOf(op, outputs[i]));
    MutableTensorView wanted, made;
    if (!TryView(outputs[i], &wanted) || !TryView(s->prototypes.back(), &made) ||
        !SameLayout(wanted, made)) {
      return;
    }
    bytes += wanted.size() * ItemSize(wanted.dtype);
  }
  for (size_t i = 0; i < count; ++i) {
    if (op.is_tensor[i]) {
      MutableTensorView view = views[i];
      if (view.present()) bytes += view.size() * ItemSize(view.dtype);
      view.data = nullptr;
      s->tensors.push_back(view);
    } else {
      s->others.push_back(nb::borrow(args[i]));
    }
  }
  s->is_small = bytes <= kSmallBytes;
  if (op.signatures.size() < kRemembered) {
    op.signatures.push_back(std::move(s));
  } else {
    op.signatures[op.next++ % kRemembered] = std::move(s);
  }
}

// Plain C functions bound to their operator: a nanobind function costs twice as much to call.
template <class Body>
PyObject* Guarded(PyObject* self, Body body) {
  try {
    return body(*static_cast<Operator*>(PyCapsule_GetPointer(self, nullptr))).release().ptr();
  } catch (nb::python_error& error) {
    error.restore();
  } catch (nb::builtin_exception& error) {
    PyErr_SetString(error.type() == nb::exception_type::type_error    ? PyExc_TypeError
                    : error.type() == nb::exception_type::value_error ? PyExc_ValueError
                                                                      : PyExc_RuntimeError,
                    error.what());
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  }
  return nullptr;
}

PyObject* RepeatFunction(PyObject* self, PyObject* const* args, Py_ssize_t count) {
  return Guarded(self, [&](Operator& op) { return Repeat(op, args, static_cast<size_t>(count)); });
}

PyObject* RememberFunction(PyObject* self, PyObject* const* args, Py_ssize_t count) {
  return Guarded(self, [&](Operator& op) -> nb::object {
    if (count < 1) throw nb::type_error("remember: the outputs are missing");
    Remember(op, nb::cast<nb::tuple>(nb::handle(args[0])), args + 1,
             static_cast<size_t>(count) - 1);
    return nb::none();
  });
}

PyObject* SecondsFunction(PyObject* self, PyObject* const* args, Py_ssize_t count) {
  return Guarded(self, [&](Operator& op) -> nb::object {
    const int64_t runs = count > 0 ? nb::cast<int64_t>(nb::handle(args[0])) : 0;
    if (runs < 1) throw nb::value_error("seconds: at least one run");
    double seconds = 0;
    if (Repeat(op, args + 1, static_cast<size_t>(count) - 1, runs, &seconds).is_none()) {
      throw nb::value_error((op.name + ": no call like this one was made before").c_str());
    }
    return nb::float_(seconds);
  });
}

PyMethodDef Method(const char* name,
                   PyObject* (*function)(PyObject*, PyObject* const*, Py_ssize_t)) {
  return {name, reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function)),
          METH_FASTCALL, nullptr};
}

nb::object Bound(PyMethodDef* method, nb::handle capsule) {
  nb::object bound = nb::steal(PyCFunction_New(method, capsule.ptr()));
  if (!bound.is_valid()) throw nb::python_error();
  return bound;
}

nb::tuple Repeatable(const char* name, nb::tuple arguments, nb::tuple is_tensor, nb::object notes,
                     nb::object noted, nb::object settle) {
  if (arguments.size() > kMaxArguments || arguments.size() != is_tensor.size()) {
    throw nb::value_error("repeatable: too many arguments, or not one flag an argument");
  }
  const nb::module_ torch = nb::module_::import_("torch");
  auto* op = new Operator();
  op->name = name;
  for (size_t i = 0; i < arguments.size(); ++i) {
    op->arguments.emplace_back(nb::cast<const char*>(nb::object(arguments[i])));
    op->is_tensor.push_back(nb::cast<bool>(nb::object(is_tensor[i])));
  }
  op->notes = std::move(notes);
  op->note = noted.attr("append");
  op->noted = std::move(noted);
  op->settle = std::move(settle);
  op->is_grad_enabled = torch.attr("is_grad_enabled");
  op->empty_like = torch.attr("empty_like");
  nb::object tensor = torch.attr("Tensor");
  op->is_neg = tensor.attr("is_neg");
  op->plain[0] = reinterpret_cast<PyTypeObject*>(tensor.release().ptr());
  nb::object parameter = torch.attr("nn").attr("Parameter");
  op->plain[1] = reinterpret_cast<PyTypeObject*>(parameter.release().ptr());
  op->requires_grad = PyUnicode_InternFromString("requires_grad");
  const nb::capsule self(op);
  static PyMethodDef remember = Method("remember", RememberFunction);
  static PyMethodDef repeat = Method("repeat", RepeatFunction);
  static PyMethodDef seconds = Method("seconds", SecondsFunction);
  return nb::make_tuple(Bound(&remember, self), Bound(&repeat, self), Bound(&seconds, self));
}

}  // namespace

void BindRepeat(nb::module_& m) {
  m.def("repeatable", &Repeatable, nb::arg("op"), nb::arg("arguments"), nb::arg("is_tensor"),
        nb::arg("notes"), nb::arg("noted"), nb::arg("settle"));
}

}  // namespace kpt::bindings

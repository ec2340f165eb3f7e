#include "bindings/base/control.h"

#include <atomic>
#include <cstring>
#include <string>
#include <utility>

#include "bindings/base/tensor.h"

namespace kpt::bindings {
namespace nb = nanobind;
namespace {

struct OpVariants {
  const char* op;
  std::vector<VariantInfo> variants;
  std::atomic<const char*> forced{nullptr};

  OpVariants(const char* name, std::vector<VariantInfo> list)
      : op(name), variants(std::move(list)) {}
};

// Filled at import, then only `forced` changes.
std::vector<OpVariants*>& Ops() {
  static auto* ops = new std::vector<OpVariants*>();
  return *ops;
}

// How many ops have a forced variant: keeps the common case to one load.
std::atomic<int> forced_count{0};

OpVariants* FindOp(const char* op) {
  for (OpVariants* o : Ops()) {
    if (std::strcmp(o->op, op) == 0) return o;
  }
  return nullptr;
}

void ForceVariant(const char* op, nb::object name) {
  OpVariants* o = FindOp(op);
  if (o == nullptr) {
    throw nb::value_error((std::string("unknown op '") + op + "'").c_str());
  }
  const char* forced = nullptr;
  if (!name.is_none()) {
    const char* wanted = nb::cast<const char*>(name);
    for (const VariantInfo& v : o->variants) {
      if (std::strcmp(v.name, wanted) == 0) forced = v.name;
    }
    if (forced == nullptr) {
      throw nb::value_error(
          (std::string("op '") + op + "' has no variant '" + wanted + "'").c_str());
    }
  }
  const char* before = o->forced.exchange(forced);
  forced_count += (forced != nullptr) - (before != nullptr);
}

nb::list ListAll() {
  nb::list out;
  for (const OpVariants* o : Ops()) {
    for (const VariantInfo& v : o->variants) {
      out.append(nb::make_tuple(o->op, v.name, v.level));
    }
  }
  return out;
}

}  // namespace

const char* ForcedVariant(const char* op) {
  if (forced_count.load(std::memory_order_relaxed) == 0) return nullptr;
  const OpVariants* o = FindOp(op);
  return o != nullptr ? o->forced.load() : nullptr;
}

void AddVariants(const char* op, const std::vector<VariantInfo>& variants) {
  Ops().push_back(new OpVariants(op, variants));
}

void BindControl(nb::module_& m) {
  m.def("force_variant", &ForceVariant, nb::arg("op"), nb::arg("name").none());
  m.def("variants", &ListAll);
  m.def("boundary", &BoundaryOf, nb::arg("tensor_type"));
  m.def("describe", &Describe, nb::arg("tensor"));
}

}  // namespace kpt::bindings

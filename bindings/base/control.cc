#include "bindings/base/control.h"

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <string>

#include "bindings/base/tensor.h"
#include "kernels/base/parallel_for.h"

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

std::atomic<int>& IsaLimit() {
  static std::atomic<int> limit{static_cast<int>(DetectedIsa())};
  return limit;
}

// How many ops have a forced variant: keeps the common case to one load.
std::atomic<int> forced_count{0};

OpVariants* FindOp(const char* op) {
  for (OpVariants* o : Ops()) {
    if (std::strcmp(o->op, op) == 0) return o;
  }
  return nullptr;
}

Isa IsaOrThrow(const char* name) {
  Isa isa;
  if (!ParseIsa(name, &isa)) {
    throw nb::value_error((std::string("unknown ISA level '") + name +
                           "'; expected baseline, avx2, avx512, avx512_bf16 or amx")
                              .c_str());
  }
  if (isa > DetectedIsa()) {
    throw nb::value_error((std::string("ISA level '") + name + "' is above what this CPU has (" +
                           Name(DetectedIsa()) + ")")
                              .c_str());
  }
  return isa;
}

void SetIsaLimit(nb::object name) {
  const Isa isa = name.is_none() ? DetectedIsa() : IsaOrThrow(nb::cast<const char*>(name));
  IsaLimit().store(static_cast<int>(isa));
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
      out.append(nb::make_tuple(o->op, v.name, Name(v.isa)));
    }
  }
  return out;
}

nb::dict FeatureDict() {
  const CpuFeatures& f = GetCpuFeatures();
  nb::dict d;
  d["avx2"] = f.avx2;
  d["fma"] = f.fma;
  d["f16c"] = f.f16c;
  d["avx512f"] = f.avx512f;
  d["avx512bw"] = f.avx512bw;
  d["avx512vl"] = f.avx512vl;
  d["avx512dq"] = f.avx512dq;
  d["avx512_bf16"] = f.avx512_bf16;
  d["avx512_vnni"] = f.avx512_vnni;
  d["avx512_vbmi"] = f.avx512_vbmi;
  d["avx512_vbmi2"] = f.avx512_vbmi2;
  d["avx512_fp16"] = f.avx512_fp16;
  d["amx_tile"] = f.amx_tile;
  d["amx_bf16"] = f.amx_bf16;
  d["amx_int8"] = f.amx_int8;
  d["l1d_bytes"] = f.l1d_bytes;
  d["l2_bytes"] = f.l2_bytes;
  d["l3_bytes"] = f.l3_bytes;
  return d;
}

}  // namespace

LaunchContext MakeContext(const char* op) {
  LaunchContext ctx;
  ctx.num_threads = MaxThreads();
  ctx.isa = static_cast<Isa>(IsaLimit().load(std::memory_order_relaxed));
  if (forced_count.load(std::memory_order_relaxed) > 0) {
    if (const OpVariants* o = FindOp(op)) ctx.force_variant = o->forced.load();
  }
  return ctx;
}

void AddVariants(const char* op, const std::vector<VariantInfo>& variants) {
  Ops().push_back(new OpVariants(op, variants));
}

void BindControl(nb::module_& m) {
  // KPT_ISA lowers the level for a whole process. A bad value must not stop the import: it is
  // reported by isa_error() and the Python gate raises it.
  static std::string isa_error;
  if (const char* wanted = std::getenv("KPT_ISA"); wanted != nullptr && *wanted != '\0') {
    try {
      IsaLimit().store(static_cast<int>(IsaOrThrow(wanted)));
    } catch (const nb::builtin_exception& e) {
      isa_error = std::string("KPT_ISA: ") + e.what();
    }
  }
  m.def("isa_error", [] { return isa_error.c_str(); });
  m.def("detected_isa", [] { return Name(DetectedIsa()); });
  m.def("isa", [] { return Name(static_cast<Isa>(IsaLimit().load())); });
  m.def("set_isa_limit", &SetIsaLimit, nb::arg("name").none());
  m.def("force_variant", &ForceVariant, nb::arg("op"), nb::arg("name").none());
  m.def("variants", &ListAll);
  m.def("boundary", &BoundaryOf, nb::arg("tensor_type"));
  m.def("describe", &Describe, nb::arg("tensor"));
  m.def("max_threads", &MaxThreads);
  m.def("cpu_features", &FeatureDict);
}

}  // namespace kpt::bindings

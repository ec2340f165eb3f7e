// What a call on the CPU is told: threads from torch's OpenMP runtime and the ISA limit.
#include "bindings/base/context.h"

#include <atomic>
#include <cstdlib>
#include <string>

#include "bindings/base/control.h"
#include "kernels/base/parallel_for.h"

namespace kpt::bindings {
namespace nb = nanobind;
namespace {

std::atomic<int>& IsaLimit() {
  static std::atomic<int> limit{static_cast<int>(DetectedIsa())};
  return limit;
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
  ctx.force_variant = ForcedVariant(op);
  return ctx;
}

void BindContext(nb::module_& m) {
  // KPT_ISA lowers the level for a whole process. A bad value must not stop the import: it is
  // reported by load_error() and the Python gate raises it.
  static std::string load_error;
  if (const char* wanted = std::getenv("KPT_ISA"); wanted != nullptr && *wanted != '\0') {
    try {
      IsaLimit().store(static_cast<int>(IsaOrThrow(wanted)));
    } catch (const nb::builtin_exception& e) {
      load_error = std::string("KPT_ISA: ") + e.what();
    }
  }
  m.def("load_error", [] { return load_error.c_str(); });
  m.def("detected_isa", [] { return Name(DetectedIsa()); });
  m.def("isa", [] { return Name(static_cast<Isa>(IsaLimit().load())); });
  m.def("set_isa_limit", &SetIsaLimit, nb::arg("name").none());
  m.def("max_threads", &MaxThreads);
  m.def("cpu_features", &FeatureDict);
}

}  // namespace kpt::bindings

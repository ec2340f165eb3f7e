// Variant tables: how an op chooses among its implementations.
//
// An op lists its variants best first. The first one whose ISA level is allowed, whose name is not
// ruled out by LaunchContext::force_variant, and whose `supports` accepts the problem, runs.
#ifndef KPT_KERNELS_BASE_VARIANT_H_
#define KPT_KERNELS_BASE_VARIANT_H_

#include <cstring>
#include <string>
#include <vector>

#include "kernels/base/launch_context.h"
#include "kernels/base/status.h"

namespace kpt {

template <class Args>
struct Variant {
  const char* name;  // unique within the op, for example "avx512_bf16_rows"
  Isa isa;
  bool (*supports)(const LaunchContext&, const Args&);  // nullptr: every problem
  Status (*run)(const LaunchContext&, const Args&);
};

struct VariantInfo {
  const char* name;
  Isa isa;            // GPU backends: the lowest
  const char* level;  // the ISA level's name, or that of a GPU variant's target
};

template <class Args, int N>
Status RunFirst(const char* op, const Variant<Args> (&variants)[N], const LaunchContext& ctx,
                const Args& args) {
  for (const Variant<Args>& v : variants) {
    if (v.isa > ctx.isa) continue;
    if (ctx.force_variant != nullptr && std::strcmp(ctx.force_variant, v.name) != 0) continue;
    if (v.supports != nullptr && !v.supports(ctx, args)) continue;
    if (ctx.record != nullptr) ctx.record->variant = v.name;
    return v.run(ctx, args);
  }
  std::string why =
      std::string(op) + ": no native variant for this problem at ISA level " + Name(ctx.isa);
  if (ctx.force_variant != nullptr) why += std::string(" (forced: ") + ctx.force_variant + ")";
  return Status::Unimplemented(std::move(why));
}

template <class Args, int N>
std::vector<VariantInfo> ListVariants(const Variant<Args> (&variants)[N]) {
  std::vector<VariantInfo> out;
  out.reserve(N);
  for (const Variant<Args>& v : variants) out.push_back({v.name, v.isa, Name(v.isa)});
  return out;
}

}  // namespace kpt

#endif  // KPT_KERNELS_BASE_VARIANT_H_

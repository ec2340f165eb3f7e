// The attention family: attention_forward.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>

#include <optional>

#include "bindings/base/call.h"
#include "bindings/families.h"
#include "kernels/attention/attention_forward.h"

namespace kpt::bindings {
namespace nb = nanobind;

void BindAttention(nb::module_& m) {
  AddVariants("attention_forward", cpu::AttentionForwardVariants());
  m.def(
      "attention_forward",
      [](nb::handle out, nb::handle lse, nb::handle q, nb::handle k, nb::handle v, nb::handle mask,
         std::optional<double> scale, bool is_causal, int64_t window_left, int64_t window_right,
         double softcap, nb::handle alibi_slopes, nb::handle sinks, nb::handle q_doc,
         nb::handle k_doc, int64_t prefix_len) {
        Call call("attention_forward");
        cpu::AttentionForwardArgs args;
        call.Input("q", q, &args.q);
        call.Input("k", k, &args.k);
        call.Input("v", v, &args.v);
        call.OptionalInput("mask", mask, &args.mask, Layout::kAny);
        if (scale.has_value()) args.scale = static_cast<float>(*scale);
        args.is_causal = is_causal;
        args.window_left = window_left;
        args.window_right = window_right;
        args.softcap = static_cast<float>(softcap);
        call.OptionalInput("alibi_slopes", alibi_slopes, &args.alibi_slopes, Layout::kAny);
        call.OptionalInput("sinks", sinks, &args.sinks);
        call.OptionalInput("q_doc", q_doc, &args.q_doc);
        call.OptionalInput("k_doc", k_doc, &args.k_doc);
        args.prefix_len = prefix_len;
        call.Output("out", out, &args.out);
        call.Output("lse", lse, &args.lse, Layout::kAny);
        return call.Run(cpu::AttentionForward, args);
      },
      nb::arg("out"), nb::arg("lse"), nb::arg("q"), nb::arg("k"), nb::arg("v"),
      nb::arg("mask").none(), nb::arg("scale").none(), nb::arg("is_causal"), nb::arg("window_left"),
      nb::arg("window_right"), nb::arg("softcap"), nb::arg("alibi_slopes").none(),
      nb::arg("sinks").none(), nb::arg("q_doc").none(), nb::arg("k_doc").none(),
      nb::arg("prefix_len"));
}

}  // namespace kpt::bindings

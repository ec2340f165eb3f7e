// The attention family: attention_forward and _backward, and both for packed sequences;
// attention_decode, attention_paged, kv_append and kv_append_quantize.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>

#include <optional>

#include "bindings/base/call.h"
#include "bindings/families.h"
#include "kernels/attention/attention_backward.h"
#include "kernels/attention/attention_decode.h"
#include "kernels/attention/attention_forward.h"
#include "kernels/attention/attention_varlen.h"
#include "kernels/attention/kv_append.h"
#if defined(KPT_BACKEND_IS_CUDA)
#include "kernels/attention/cuda/decode_workspace.h"
#include "kernels/attention/cuda/flash_workspace.h"
#endif

namespace kpt::bindings {
namespace nb = nanobind;
namespace {

// What all operators over whole sequences have in common, but for the mask.
void TakeOptions(Call& call, std::optional<double> scale, bool is_causal, int64_t window_left,
                 int64_t window_right, double softcap, nb::handle alibi_slopes, nb::handle sinks,
                 nb::handle q_doc, nb::handle k_doc, int64_t prefix_len,
                 backend::AttentionOptions* options) {
  if (scale.has_value()) options->scale = static_cast<float>(*scale);
  options->is_causal = is_causal;
  options->window_left = window_left;
  options->window_right = window_right;
  options->softcap = static_cast<float>(softcap);
  call.OptionalInput("alibi_slopes", alibi_slopes, &options->alibi_slopes, Layout::kAny);
  call.OptionalInput("sinks", sinks, &options->sinks);
  call.OptionalInput("q_doc", q_doc, &options->q_doc);
  call.OptionalInput("k_doc", k_doc, &options->k_doc);
  options->prefix_len = prefix_len;
}

// What attention_decode and attention_paged have in common.
void TakeDecode(Call& call, nb::handle out, nb::handle q, nb::handle seq_lens,
                std::optional<double> scale, int64_t window_left, double softcap,
                nb::handle alibi_slopes, nb::handle sinks, nb::handle k_scale, nb::handle v_scale,
                nb::handle cos, nb::handle sin, bool interleaved,
                backend::AttentionDecodeArgs* args) {
  call.Output("out", out, &args->out);
  call.Input("q", q, &args->q);
  call.Input("seq_lens", seq_lens, &args->seq_lens);
  if (scale.has_value()) args->scale = static_cast<float>(*scale);
  args->window_left = window_left;
  args->softcap = static_cast<float>(softcap);
  call.OptionalInput("alibi_slopes", alibi_slopes, &args->alibi_slopes);
  call.OptionalInput("sinks", sinks, &args->sinks);
  call.OptionalInput("k_scale", k_scale, &args->k_scale, Layout::kAny);
  call.OptionalInput("v_scale", v_scale, &args->v_scale, Layout::kAny);
  call.OptionalInput("cos", cos, &args->cos);
  call.OptionalInput("sin", sin, &args->sin);
  args->interleaved = interleaved;
}

#if defined(KPT_BACKEND_IS_CUDA)
constexpr auto kBackwardWorkspace = backend::AttentionBackwardWorkspaceBytes;
constexpr auto kDecodeWorkspace = backend::AttentionDecodeWorkspaceBytes;
#else
constexpr int64_t (*kBackwardWorkspace)(const LaunchContext&,
                                        const backend::AttentionBackwardArgs&) = nullptr;
constexpr int64_t (*kDecodeWorkspace)(const LaunchContext&,
                                      const backend::AttentionDecodeArgs&) = nullptr;

void TakeSequences(Call& call, nb::handle q, nb::handle k, nb::handle v, nb::handle cu_seqlens_q,
                   nb::handle cu_seqlens_k, int64_t max_seqlen_q, int64_t max_seqlen_k,
                   backend::PackedSequences* args) {
  call.Input("q", q, &args->q);
  call.Input("k", k, &args->k);
  call.Input("v", v, &args->v);
  call.Input("cu_seqlens_q", cu_seqlens_q, &args->cu_seqlens_q);
  call.Input("cu_seqlens_k", cu_seqlens_k, &args->cu_seqlens_k);
  args->max_seqlen_q = max_seqlen_q;
  args->max_seqlen_k = max_seqlen_k;
}

// What kv_append and kv_append_quantize have in common.
void TakeAppend(Call& call, nb::handle out_k, nb::handle out_v, nb::handle k, nb::handle v,
                nb::handle k_cache, nb::handle v_cache, nb::handle seq_lens, nb::handle k_scale,
                nb::handle v_scale, nb::handle block_table, nb::handle cos, nb::handle sin,
                bool interleaved, cpu::KvAppendArgs* args) {
  call.Output("k_cache", out_k, &args->out_k);
  call.Output("v_cache", out_v, &args->out_v);
  call.Input("k", k, &args->k);
  call.Input("v", v, &args->v);
  call.Input("k_cache", k_cache, &args->k_cache);
  call.Input("v_cache", v_cache, &args->v_cache);
  call.Input("seq_lens", seq_lens, &args->seq_lens);
  call.OptionalInput("k_scale", k_scale, &args->k_scale, Layout::kAny);
  call.OptionalInput("v_scale", v_scale, &args->v_scale, Layout::kAny);
  call.OptionalInput("block_table", block_table, &args->block_table);
  call.OptionalInput("cos", cos, &args->cos);
  call.OptionalInput("sin", sin, &args->sin);
  args->interleaved = interleaved;
}
#endif

}  // namespace

void BindAttention(nb::module_& m) {
  AddVariants("attention_forward", backend::AttentionForwardVariants());
  m.def(
      "attention_forward",
      [](nb::handle out, nb::handle lse, nb::handle q, nb::handle k, nb::handle v, nb::handle mask,
         std::optional<double> scale, bool is_causal, int64_t window_left, int64_t window_right,
         double softcap, nb::handle alibi_slopes, nb::handle sinks, nb::handle q_doc,
         nb::handle k_doc, int64_t prefix_len) {
        Call call("attention_forward");
        backend::AttentionForwardArgs args;
        call.Input("q", q, &args.q);
        call.Input("k", k, &args.k);
        call.Input("v", v, &args.v);
        call.OptionalInput("mask", mask, &args.mask, Layout::kAny);
        TakeOptions(call, scale, is_causal, window_left, window_right, softcap, alibi_slopes, sinks,
                    q_doc, k_doc, prefix_len, &args);
        call.Output("out", out, &args.out);
        call.Output("lse", lse, &args.lse, Layout::kAny);
        return call.Run(backend::AttentionForward, args);
      },
      nb::arg("out"), nb::arg("lse"), nb::arg("q"), nb::arg("k"), nb::arg("v"),
      nb::arg("mask").none(), nb::arg("scale").none(), nb::arg("is_causal"), nb::arg("window_left"),
      nb::arg("window_right"), nb::arg("softcap"), nb::arg("alibi_slopes").none(),
      nb::arg("sinks").none(), nb::arg("q_doc").none(), nb::arg("k_doc").none(),
      nb::arg("prefix_len"));

  AddVariants("attention_backward", backend::AttentionBackwardVariants());
  m.def(
      "attention_backward",
      [](nb::handle grad_q, nb::handle grad_k, nb::handle grad_v, nb::handle grad_out, nb::handle q,
         nb::handle k, nb::handle v, nb::handle out, nb::handle lse, nb::handle mask,
         std::optional<double> scale, bool is_causal, int64_t window_left, int64_t window_right,
         double softcap, nb::handle alibi_slopes, nb::handle sinks, nb::handle q_doc,
         nb::handle k_doc, int64_t prefix_len, nb::handle grad_lse) {
        Call call("attention_backward");
        backend::AttentionBackwardArgs args;
        call.Output("grad_q", grad_q, &args.grad_q);
        call.Output("grad_k", grad_k, &args.grad_k);
        call.Output("grad_v", grad_v, &args.grad_v);
        call.Input("grad_out", grad_out, &args.grad_out);
        call.Input("q", q, &args.q);
        call.Input("k", k, &args.k);
        call.Input("v", v, &args.v);
        call.Input("out", out, &args.out);
        call.Input("lse", lse, &args.lse);
        call.OptionalInput("mask", mask, &args.mask, Layout::kAny);
        TakeOptions(call, scale, is_causal, window_left, window_right, softcap, alibi_slopes, sinks,
                    q_doc, k_doc, prefix_len, &args);
        call.OptionalInput("grad_lse", grad_lse, &args.grad_lse);
        return call.Run(backend::AttentionBackward, args, kBackwardWorkspace);
      },
      nb::arg("grad_q"), nb::arg("grad_k"), nb::arg("grad_v"), nb::arg("grad_out"), nb::arg("q"),
      nb::arg("k"), nb::arg("v"), nb::arg("out"), nb::arg("lse"), nb::arg("mask").none(),
      nb::arg("scale").none(), nb::arg("is_causal"), nb::arg("window_left"),
      nb::arg("window_right"), nb::arg("softcap"), nb::arg("alibi_slopes").none(),
      nb::arg("sinks").none(), nb::arg("q_doc").none(), nb::arg("k_doc").none(),
      nb::arg("prefix_len"), nb::arg("grad_lse").none());

#if !defined(KPT_BACKEND_IS_CUDA)
  AddVariants("attention_varlen_forward", backend::AttentionVarlenForwardVariants());
  m.def(
      "attention_varlen_forward",
      [](nb::handle out, nb::handle lse, nb::handle q, nb::handle k, nb::handle v,
         nb::handle cu_seqlens_q, nb::handle cu_seqlens_k, int64_t max_seqlen_q,
         int64_t max_seqlen_k, std::optional<double> scale, bool is_causal, int64_t window_left,
         int64_t window_right, double softcap, nb::handle alibi_slopes, nb::handle sinks,
         nb::handle q_doc, nb::handle k_doc, int64_t prefix_len) {
        Call call("attention_varlen_forward");
        backend::AttentionVarlenForwardArgs args;
        TakeSequences(call, q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, &args);
        TakeOptions(call, scale, is_causal, window_left, window_right, softcap, alibi_slopes, sinks,
                    q_doc, k_doc, prefix_len, &args);
        call.Output("out", out, &args.out);
        call.Output("lse", lse, &args.lse, Layout::kAny);
        return call.Run(backend::AttentionVarlenForward, args);
      },
      nb::arg("out"), nb::arg("lse"), nb::arg("q"), nb::arg("k"), nb::arg("v"),
      nb::arg("cu_seqlens_q"), nb::arg("cu_seqlens_k"), nb::arg("max_seqlen_q"),
      nb::arg("max_seqlen_k"), nb::arg("scale").none(), nb::arg("is_causal"),
      nb::arg("window_left"), nb::arg("window_right"), nb::arg("softcap"),
      nb::arg("alibi_slopes").none(), nb::arg("sinks").none(), nb::arg("q_doc").none(),
      nb::arg("k_doc").none(), nb::arg("prefix_len"));

  AddVariants("attention_varlen_backward", backend::AttentionVarlenBackwardVariants());
  m.def(
      "attention_varlen_backward",
      [](nb::handle grad_q, nb::handle grad_k, nb::handle grad_v, nb::handle grad_out, nb::handle q,
         nb::handle k, nb::handle v, nb::handle out, nb::handle lse, nb::handle cu_seqlens_q,
         nb::handle cu_seqlens_k, int64_t max_seqlen_q, int64_t max_seqlen_k,
         std::optional<double> scale, bool is_causal, int64_t window_left, int64_t window_right,
         double softcap, nb::handle alibi_slopes, nb::handle sinks, nb::handle q_doc,
         nb::handle k_doc, int64_t prefix_len, nb::handle grad_lse) {
        Call call("attention_varlen_backward");
        backend::AttentionVarlenBackwardArgs args;
        call.Output("grad_q", grad_q, &args.grad_q);
        call.Output("grad_k", grad_k, &args.grad_k);
        call.Output("grad_v", grad_v, &args.grad_v);
        call.Input("grad_out", grad_out, &args.grad_out);
        TakeSequences(call, q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, &args);
        call.Input("out", out, &args.out);
        call.Input("lse", lse, &args.lse);
        TakeOptions(call, scale, is_causal, window_left, window_right, softcap, alibi_slopes, sinks,
                    q_doc, k_doc, prefix_len, &args);
        call.OptionalInput("grad_lse", grad_lse, &args.grad_lse);
        return call.Run(backend::AttentionVarlenBackward, args);
      },
      nb::arg("grad_q"), nb::arg("grad_k"), nb::arg("grad_v"), nb::arg("grad_out"), nb::arg("q"),
      nb::arg("k"), nb::arg("v"), nb::arg("out"), nb::arg("lse"), nb::arg("cu_seqlens_q"),
      nb::arg("cu_seqlens_k"), nb::arg("max_seqlen_q"), nb::arg("max_seqlen_k"),
      nb::arg("scale").none(), nb::arg("is_causal"), nb::arg("window_left"),
      nb::arg("window_right"), nb::arg("softcap"), nb::arg("alibi_slopes").none(),
      nb::arg("sinks").none(), nb::arg("q_doc").none(), nb::arg("k_doc").none(),
      nb::arg("prefix_len"), nb::arg("grad_lse").none());
#endif

  AddVariants("attention_decode", backend::AttentionDecodeVariants());
  m.def(
      "attention_decode",
      [](nb::handle out, nb::handle q, nb::handle k_cache, nb::handle v_cache, nb::handle seq_lens,
         std::optional<double> scale, int64_t window_left, double softcap, nb::handle alibi_slopes,
         nb::handle sinks, nb::handle k_scale, nb::handle v_scale, nb::handle cos, nb::handle sin,
         bool interleaved) {
        Call call("attention_decode");
        backend::AttentionDecodeArgs args;
        call.Input("k_cache", k_cache, &args.k);
        call.Input("v_cache", v_cache, &args.v);
        TakeDecode(call, out, q, seq_lens, scale, window_left, softcap, alibi_slopes, sinks,
                   k_scale, v_scale, cos, sin, interleaved, &args);
        return call.Run(backend::AttentionDecode, args, kDecodeWorkspace);
      },
      nb::arg("out"), nb::arg("q"), nb::arg("k_cache"), nb::arg("v_cache"), nb::arg("seq_lens"),
      nb::arg("scale").none(), nb::arg("window_left"), nb::arg("softcap"),
      nb::arg("alibi_slopes").none(), nb::arg("sinks").none(), nb::arg("k_scale").none(),
      nb::arg("v_scale").none(), nb::arg("cos").none(), nb::arg("sin").none(),
      nb::arg("interleaved"));

  AddVariants("attention_paged", backend::AttentionDecodeVariants());
  m.def(
      "attention_paged",
      [](nb::handle out, nb::handle q, nb::handle k_pages, nb::handle v_pages,
         nb::handle block_table, nb::handle seq_lens, nb::handle k_scale, nb::handle v_scale,
         std::optional<double> scale, int64_t window_left, double softcap, nb::handle alibi_slopes,
         nb::handle sinks, nb::handle cos, nb::handle sin, bool interleaved) {
        Call call("attention_paged");
        backend::AttentionDecodeArgs args;
        call.Input("k_pages", k_pages, &args.k);
        call.Input("v_pages", v_pages, &args.v);
        call.Input("block_table", block_table, &args.block_table);
        TakeDecode(call, out, q, seq_lens, scale, window_left, softcap, alibi_slopes, sinks,
                   k_scale, v_scale, cos, sin, interleaved, &args);
        return call.Run(backend::AttentionPaged, args, kDecodeWorkspace);
      },
      nb::arg("out"), nb::arg("q"), nb::arg("k_pages"), nb::arg("v_pages"), nb::arg("block_table"),
      nb::arg("seq_lens"), nb::arg("k_scale").none(), nb::arg("v_scale").none(),
      nb::arg("scale").none(), nb::arg("window_left"), nb::arg("softcap"),
      nb::arg("alibi_slopes").none(), nb::arg("sinks").none(), nb::arg("cos").none(),
      nb::arg("sin").none(), nb::arg("interleaved"));

#if !defined(KPT_BACKEND_IS_CUDA)
  AddVariants("kv_append", cpu::KvAppendVariants());
  m.def(
      "kv_append",
      [](nb::handle out_k, nb::handle out_v, nb::handle k, nb::handle v, nb::handle k_cache,
         nb::handle v_cache, nb::handle seq_lens, nb::handle block_table, nb::handle k_scale,
         nb::handle v_scale, nb::handle cos, nb::handle sin, bool interleaved) {
        Call call("kv_append");
        cpu::KvAppendArgs args;
        TakeAppend(call, out_k, out_v, k, v, k_cache, v_cache, seq_lens, k_scale, v_scale,
                   block_table, cos, sin, interleaved, &args);
        return call.Run(cpu::KvAppend, args);
      },
      nb::arg("out_k_cache"), nb::arg("out_v_cache"), nb::arg("k"), nb::arg("v"),
      nb::arg("k_cache"), nb::arg("v_cache"), nb::arg("seq_lens"), nb::arg("block_table").none(),
      nb::arg("k_scale").none(), nb::arg("v_scale").none(), nb::arg("cos").none(),
      nb::arg("sin").none(), nb::arg("interleaved"));

  AddVariants("kv_append_quantize", cpu::KvAppendVariants());
  m.def(
      "kv_append_quantize",
      [](nb::handle out_k, nb::handle out_v, nb::handle out_k_scale, nb::handle out_v_scale,
         nb::handle k, nb::handle v, nb::handle k_cache, nb::handle v_cache, nb::handle k_scale,
         nb::handle v_scale, nb::handle seq_lens, nb::handle block_table, nb::handle cos,
         nb::handle sin, bool interleaved) {
        Call call("kv_append_quantize");
        cpu::KvAppendArgs args;
        TakeAppend(call, out_k, out_v, k, v, k_cache, v_cache, seq_lens, k_scale, v_scale,
                   block_table, cos, sin, interleaved, &args);
        call.Output("k_scale", out_k_scale, &args.out_k_scale, Layout::kAny);
        call.Output("v_scale", out_v_scale, &args.out_v_scale, Layout::kAny);
        return call.Run(cpu::KvAppendQuantize, args);
      },
      nb::arg("out_k_cache"), nb::arg("out_v_cache"), nb::arg("out_k_scale"),
      nb::arg("out_v_scale"), nb::arg("k"), nb::arg("v"), nb::arg("k_cache"), nb::arg("v_cache"),
      nb::arg("k_scale"), nb::arg("v_scale"), nb::arg("seq_lens"), nb::arg("block_table").none(),
      nb::arg("cos").none(), nb::arg("sin").none(), nb::arg("interleaved"));
#endif
}

}  // namespace kpt::bindings

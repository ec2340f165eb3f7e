"""cc_headers: the headers of C++ libraries as files, for tests that run a compiler themselves."""

load("@rules_cc//cc:defs.bzl", "CcInfo")

def _cc_headers_impl(ctx):
    contexts = [dep[CcInfo].compilation_context for dep in ctx.attr.deps]
    return [DefaultInfo(files = depset(transitive = [c.headers for c in contexts]))]

cc_headers = rule(
    implementation = _cc_headers_impl,
    attrs = {"deps": attr.label_list(providers = [CcInfo])},
    doc = "All headers that compiling against `deps` may read.",
)

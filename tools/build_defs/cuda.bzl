"""cuda_objects: CUDA sources compiled by NVIDIA's own compiler, each for the architectures that its
file name asks for.

  *_sm90a.cu.cc  *_sm100a.cu.cc  *_sm120a.cu.cc
               tensor-core kernels of one architecture, whose instructions exist on no other.
  *.cu.cc      portable: every architecture of KPT_CUDA_ARCHITECTURES, and the PTX of the oldest,
               which the driver compiles for GPUs that are newer or between those.

Nothing here looks for a CUDA installation: compiler, headers and runtime come from
@cuda_toolkit, which is fetched when the first such target is built.
"""

load("@bazel_skylib//rules:common_settings.bzl", "BuildSettingInfo")
load("@rules_cc//cc:action_names.bzl", "ACTION_NAMES")
load("@rules_cc//cc:find_cc_toolchain.bzl", "find_cc_toolchain", "use_cc_toolchain")

# Ampere, Ada, Hopper, Blackwell (data centre and consumer).
KPT_CUDA_ARCHITECTURES = [
    "80",
    "89",
    "90a",
    "100a",
    "120a",
]
_PTX = "80"

# One architecture by file name; the rest is portable.
_TUNED = ["90a", "100a", "120a"]

_FLAGS = [
    "-std=c++17",
    "-O3",
    "-DNDEBUG",
    "--expt-relaxed-constexpr",
    # What is stored is a tenth of the code: a wheel carries five architectures.
    "-Xfatbin=-compress-all",
    "--compress-mode=size",
    "-Xcompiler=-O2,-fPIC,-fvisibility=hidden,-fno-exceptions,-fno-rtti,-Wall",
]

# The assembler mentions these in passing, and the kernel is then several times slower: products that
# wait for each other, registers that cannot be moved between warps.
_COMPILE = """
said=$("$@" 2>&1)
status=$?
[ -z "$said" ] || printf '%s\\n' "$said" >&2
case $said in
  *"instructions are serialized"* | *"'setmaxnreg' ignored"*) exit 1 ;;
esac
exit $status
"""

def _architectures(name, wanted):
    """The -gencode options of a file; `wanted` is "all" or one architecture, "90a"."""
    for tuned in _TUNED:
        if name.endswith("_sm%s.cu.cc" % tuned):
            return [_gencode(tuned, "sm_" + tuned)]
    if wanted != "all":
        return [_gencode(wanted, "sm_" + wanted)]
    return [_gencode(a, "sm_" + a) for a in KPT_CUDA_ARCHITECTURES] + [
        _gencode(_PTX, "compute_" + _PTX),
    ]

# Never -arch=sm_90a: that would leave the PTX of one architecture in the file.
def _gencode(virtual, code):
    return "-gencode=arch=compute_%s,code=%s" % (virtual, code)

def _impl(ctx):
    toolchain = find_cc_toolchain(ctx)
    features = cc_common.configure_features(
        ctx = ctx,
        cc_toolchain = toolchain,
        requested_features = ctx.features,
        unsupported_features = ctx.disabled_features,
    )
    host = cc_common.get_tool_for_action(
        feature_configuration = features,
        action_name = ACTION_NAMES.cpp_compile,
    )
    deps = cc_common.merge_cc_infos(cc_infos = [d[CcInfo] for d in ctx.attr.deps])
    context = deps.compilation_context
    wanted = ctx.attr._architecture[BuildSettingInfo].value.removeprefix("sm_")

    objects = []
    for src in ctx.files.srcs:
        out = ctx.actions.declare_file("_cuda/%s/%s.o" % (ctx.label.name, src.basename))
        args = ctx.actions.args()
        args.add_all(_FLAGS)
        args.add("-ccbin", host)
        args.add_all(_architectures(src.basename, wanted))
        args.add_all(ctx.attr.local_defines, format_each = "-D%s")
        args.add_all(context.defines, format_each = "-D%s")
        args.add_all(context.includes, before_each = "-I")
        args.add_all(context.quote_includes, before_each = "-I")
        args.add_all(context.system_includes, before_each = "-isystem")

        # The names that the compiler makes up follow this instead of its process's number.
        args.add("-frandom-seed", src.short_path)
        args.add("-x", "cu")
        args.add("-c", src)
        args.add("-o", out)
        ctx.actions.run_shell(
            command = _COMPILE,
            arguments = [ctx.executable._nvcc.path, args],
            inputs = depset([src], transitive = [context.headers]),
            outputs = [out],
            tools = depset(
                [ctx.executable._nvcc] + ctx.files._compiler,
                transitive = [toolchain.all_files],
            ),
            mnemonic = "CudaCompile",
            progress_message = "Compiling CUDA %{input}",
            use_default_shell_env = True,
        )
        objects.append(out)

    linking, _ = cc_common.create_linking_context_from_compilation_outputs(
        name = ctx.label.name,
        actions = ctx.actions,
        feature_configuration = features,
        cc_toolchain = toolchain,
        compilation_outputs = cc_common.create_compilation_outputs(
            objects = depset(objects),
            pic_objects = depset(objects),
        ),
        linking_contexts = [deps.linking_context],
        disallow_dynamic_library = True,
        # Kernels register themselves before main: a linker that takes only what is called would
        # drop them.
        alwayslink = True,
    )
    return [
        DefaultInfo(files = depset(objects)),
        CcInfo(compilation_context = context, linking_context = linking),
    ]

cuda_objects = rule(
    doc = "Compiles *.cu.cc; a C++ library to others, and the object files themselves.",
    implementation = _impl,
    attrs = {
        "deps": attr.label_list(providers = [CcInfo]),
        "local_defines": attr.string_list(),
        "srcs": attr.label_list(allow_files = [".cu.cc"]),
        "_architecture": attr.label(default = "//tools/build_defs:cuda_architecture"),
        "_compiler": attr.label(default = "@cuda_toolkit//:compiler", cfg = "exec"),
        "_nvcc": attr.label(
            default = "@cuda_toolkit//:site-packages/nvidia/cu13/bin/nvcc",
            allow_single_file = True,
            cfg = "exec",
            executable = True,
        ),
    },
    fragments = ["cpp"],
    toolchains = use_cc_toolchain(),
)

"""kpt_kernel_library: one kernel family; the file name decides how a source is compiled.

Under the family's folder (and its cpu/ folder), for the library FAMILY:

  *_simd.cc         portable SIMD, compiled once per instruction set: baseline, avx2, avx512.
                    The namespace of the copy comes as KPT_SIMD_NS.
  *_avx2.cc  *_avx512.cc  *_avx512_bf16.cc  *_amx.cc
                    x86-64 only, each with the flags of its instruction set.
  any other *.cc    plain code: argument checks and variant tables.
  *.h               headers, for all of the above, the bindings and the tests.

Under its gpu/ folder (one source for CUDA and HIP) and its cuda/ folder, for FAMILY_cuda, which
has the plain *.cc of the family's own folder as well (in namespace kpt::KPT_BACKEND):

  *.cu.cc           CUDA, for every architecture; *_sm90a.cu.cc and the like for one (cuda.bzl).
  any other *.cc    plain host code: checks, choices, variant tables.

They are compiled with KPT_BACKEND=cuda (kernels/base/backend.h) and only where something asks for
FAMILY_cuda.

A new file of a known suffix needs no BUILD edit. On other processors the x86 files are left out
and *_simd.cc is compiled once, as baseline; KPT_HAVE_X86_VARIANTS tells plain code which it is.
"""

load("@rules_cc//cc:defs.bzl", "cc_library")
load("//tools/lint:sources.bzl", "lint_sources")
load(":cuda.bzl", "cuda_objects")

KPT_COPTS = [
    "-O3",
    "-Wall",
    "-Wextra",
    # GCC 12 takes the deliberately undefined operands of its own intrinsics for mistakes.
    "-Wno-maybe-uninitialized",
    "-Wno-uninitialized",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fvisibility=hidden",
    "-fno-exceptions",
    "-fno-rtti",
]

_AVX2 = ["-mavx2", "-mfma", "-mf16c", "-mbmi", "-mbmi2", "-mpclmul", "-maes"]
_AVX512 = _AVX2 + [
    "-mavx512f",
    "-mavx512bw",
    "-mavx512vl",
    "-mavx512dq",
    "-mavx512cd",
    "-mprefer-vector-width=512",
]
_AVX512_BF16 = _AVX512 + [
    "-mavx512bf16",
    "-mavx512vnni",
    "-mavx512vbmi",
    "-mavx512vbmi2",
    "-mavx512ifma",
    "-mavx512bitalg",
    "-mavx512vpopcntdq",
]
# For tests that compile a kernel once more.
KPT_AVX512_BF16_COPTS = KPT_COPTS + _AVX512_BF16

_AMX = _AVX512_BF16 + ["-mamx-tile", "-mamx-bf16", "-mamx-int8"]

# Longest suffix first: "_avx512_bf16.cc" must not be taken for a plain file.
_ISA_FILES = {
    "avx512_bf16": _AVX512_BF16,
    "avx512": _AVX512,
    "avx2": _AVX2,
    "amx": _AMX,
}
_SIMD_COPIES = {
    "baseline": [],
    "avx2": _AVX2,
    "avx512": _AVX512,
}

_X86 = "@platforms//cpu:x86_64"

KPT_CUDA_DEFINES = [
    "KPT_BACKEND=cuda",
    "KPT_BACKEND_IS_CUDA=1",
]

# What NVIDIA's packages are made for.
KPT_CUDA_COMPATIBLE_WITH = [
    "@platforms//os:linux",
    _X86,
]

def _sources(suffix = ""):
    return native.glob(
        ["*%s.cc" % suffix, "cpu/*%s.cc" % suffix],
        allow_empty = True,
        exclude = ["*_test.cc"],
    )

def kpt_kernel_library(name, deps = [], visibility = None):
    """Declares the library of the family in this folder.

    Args:
      name: the family; the library's name.
      deps: other than //kernels/base (a family never depends on another).
      visibility: default: the bindings and the tests only.
    """
    visibility = visibility or [
        "//bindings:__subpackages__",
        "//tests:__subpackages__",
    ]
    lint_sources()
    if native.package_name() != "kernels/base":
        deps = deps + ["//kernels/base"]

    # Visible like the library, so that a test may include a header without its code.
    cc_library(
        name = name + "_headers",
        hdrs = native.glob(
            ["*.h", "cpu/*.h", "gpu/**/*.h", "cuda/*.h"],
            allow_empty = True,
        ),
        visibility = visibility,
        deps = deps,
    )

    # The tests run these with their tile instructions emulated.
    native.filegroup(
        name = "amx_sources",
        srcs = _sources("_amx"),
        visibility = ["//tests/kernels:__subpackages__"],
    )

    special = []
    x86 = []
    everywhere = []

    simd = _sources("_simd")
    special += simd
    for isa, flags in _SIMD_COPIES.items():
        if not simd:
            break
        part = "%s_simd_%s" % (name, isa)
        cc_library(
            name = part,
            srcs = simd,
            copts = KPT_COPTS + flags,
            # Static dispatch: each copy is compiled for one instruction set and chosen by the
            # variant table, never by Highway at run time.
            local_defines = ["HWY_COMPILE_ONLY_STATIC", "KPT_SIMD_NS=" + isa],
            linkstatic = True,
            target_compatible_with = [] if isa == "baseline" else [_X86],
            visibility = ["//visibility:private"],
            deps = [name + "_headers", "@highway//:hwy"],
        )
        if isa == "baseline":
            everywhere.append(part)
        else:
            x86.append(part)

    for isa, flags in _ISA_FILES.items():
        srcs = [f for f in _sources("_" + isa) if f not in special]
        if not srcs:
            continue
        special += srcs
        part = "%s_%s" % (name, isa)
        cc_library(
            name = part,
            srcs = srcs,
            copts = KPT_COPTS + flags,
            local_defines = ["HWY_COMPILE_ONLY_STATIC"],
            linkstatic = True,
            target_compatible_with = [_X86],
            visibility = ["//visibility:private"],
            deps = [name + "_headers", "@highway//:hwy"],
        )
        x86.append(part)

    cc_library(
        name = name,
        srcs = [f for f in _sources() if f not in special],
        copts = KPT_COPTS,
        linkstatic = True,
        local_defines = select({
            _X86: ["KPT_HAVE_X86_VARIANTS=1"],
            "//conditions:default": [],
        }),
        visibility = visibility,
        deps = [name + "_headers"] + everywhere + select({
            _X86: x86,
            "//conditions:default": [],
        }),
    )

    _cuda_library(name, visibility)

def _cuda_library(name, visibility):
    # The tests run these on an emulated GPU.
    native.filegroup(
        name = "gpu_sources",
        srcs = native.glob(["gpu/*.cc"], allow_empty = True),
        visibility = ["//tests/kernels:__subpackages__"],
    )
    native.filegroup(
        name = "cuda_sources",
        srcs = native.glob(["*.cc", "cuda/*.cc"], allow_empty = True),
        visibility = ["//tests/kernels:__subpackages__"],
    )
    device = native.glob(["gpu/*.cu.cc", "cuda/*.cu.cc"], allow_empty = True)
    host = native.glob(["gpu/*.cc", "cuda/*.cc"], allow_empty = True, exclude = device)
    if not device and not host:
        return
    if native.package_name() != "kernels/base":  # that library serves every backend
        host += native.glob(["*.cc"], allow_empty = True)
    deps = [name + "_headers", "@cuda_toolkit//:cudart"]
    if native.package_name() != "kernels/base":
        deps.append("//kernels/base:base_cuda")
    if device:
        cuda_objects(
            name = name + "_cuda_objects",
            srcs = device,
            local_defines = KPT_CUDA_DEFINES,
            target_compatible_with = KPT_CUDA_COMPATIBLE_WITH,
            visibility = ["//tests:__subpackages__"],
            deps = deps,
        )
        deps = deps + [name + "_cuda_objects"]
    cc_library(
        name = name + "_cuda",
        srcs = host,
        copts = KPT_COPTS,
        linkstatic = True,
        local_defines = KPT_CUDA_DEFINES,
        target_compatible_with = KPT_CUDA_COMPATIBLE_WITH,
        visibility = visibility,
        deps = deps,
    )

"""lint_sources: hands a package's sources to the format and lint tests."""

# Every package with Python or C++ sources calls lint_sources (most through the macros of
# tools/build_defs) and is named here, so that //tests/tools sees it.
LINTED_PACKAGES = [
    "//bindings",
    "//kernels/activation",
    "//kernels/attention",
    "//kernels/base",
    "//kernels/gemm",
    "//kernels/norm",
    "//kernels/probe",
    "//python",
    "//tests/bindings",
    "//tests/contract",
    "//tests/kernels",
    "//tests/python",
    "//tests/tools",
    "//tools",
    "//tools/build_defs",
    "//tools/lint",
    "//tools/wheel",
]

def lint_sources():
    native.filegroup(
        name = "lint_sources",
        srcs = native.glob(
            ["**/*.%s" % suffix for suffix in ["cc", "h", "py"]],
            allow_empty = True,
        ),
        visibility = ["//tests/tools:__pkg__"],
    )

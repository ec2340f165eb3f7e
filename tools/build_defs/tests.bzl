"""kpt_cc_test and kpt_py_test, and their plural forms that make one target per test file."""

load("@rules_cc//cc:defs.bzl", "cc_test")
load("@rules_python//python:defs.bzl", "py_test")

_FAMILIES = ["activation", "attention", "gemm", "norm"]

def kpt_cc_test(name, srcs, deps = [], copts = [], **kwargs):
    """A googletest; sees //kernels/base and every kernel family."""
    cc_test(
        name = name,
        srcs = srcs,
        copts = ["-Wall", "-Wextra"] + copts,
        linkopts = ["-ldl", "-lpthread"],
        linkstatic = True,
        deps = deps + ["//kernels/base"] + ["//kernels/" + f for f in _FAMILIES] + [
            "@googletest//:gtest_main",
        ],
        **kwargs
    )

def kpt_cc_tests(size = "medium", exclude = [], **kwargs):
    """One kpt_cc_test per *_test.cc of this package; its *.h are shared."""
    helpers = native.glob(["**/*.h"], allow_empty = True)
    for src in native.glob(["**/*_test.cc"], allow_empty = True, exclude = exclude):
        kpt_cc_test(name = src[:-len(".cc")], srcs = [src] + helpers, size = size, **kwargs)

def kpt_py_test(name, srcs, deps = [], args = [], lint = False, model = False, **kwargs):
    """A pytest over `srcs` with the package, torch and all test packages importable.

    Args:
      name: the target's name.
      srcs: test files, all given to pytest; a helper module belongs into `deps`.
      deps: further libraries.
      args: further pytest arguments.
      lint: also give ruff, mypy and clang-format.
      model: also give the demo's weights.
      **kwargs: of py_test.
    """
    py_test(
        name = name,
        srcs = srcs + ["//tools/build_defs:pytest_main.py"],
        main = "//tools/build_defs:pytest_main.py",
        args = args + ["$(rootpath %s)" % s for s in srcs],
        deps = deps + [
            "//python:kernel_pytorch",
            "@python_packages//:packages",
            "@torch//:packages",
        ] + (["@lint_packages//:packages"] if lint else []) +
               (["@minilm//:packages"] if model else []),
        **kwargs
    )

def kpt_py_tests(size = "medium", exclude = [], deps = [], **kwargs):
    """One kpt_py_test per test_*.py of this package; conftest.py and other modules are shared."""
    helpers = native.glob(["**/*.py"], allow_empty = True, exclude = ["**/test_*.py"])
    for src in native.glob(["**/test_*.py"], allow_empty = True, exclude = exclude):
        kpt_py_test(
            name = src[:-len(".py")],
            srcs = [src],
            data = helpers,
            deps = deps,
            size = size,
            **kwargs
        )

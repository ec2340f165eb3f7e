"""kpt_cc_test and kpt_py_test, and their plural forms that make one target per test file."""

load("@rules_cc//cc:defs.bzl", "cc_test")
load("@rules_python//python:defs.bzl", "py_test")
load("//tools/lint:sources.bzl", "lint_sources")

def kpt_cc_test(name, srcs, deps = [], copts = [], **kwargs):
    """A googletest; sees //kernels/base."""
    cc_test(
        name = name,
        srcs = srcs,
        copts = ["-Wall", "-Wextra"] + copts,
        linkopts = ["-ldl", "-lpthread"],
        linkstatic = True,
        deps = deps + ["//kernels/base", "@googletest//:gtest_main"],
        **kwargs
    )

def kpt_cc_tests(size = "medium", exclude = [], **kwargs):
    """One kpt_cc_test per FOLDER/*_test.cc of this package, with //kernels/FOLDER.

    The headers of the package are shared.
    """
    lint_sources()
    helpers = native.glob(["**/*.h"], allow_empty = True)
    for src in native.glob(["*/*_test.cc"], allow_empty = True, exclude = exclude):
        folder = src.split("/")[0]
        kpt_cc_test(
            name = src[:-len(".cc")],
            srcs = [src] + helpers,
            size = size,
            deps = ["//kernels/" + folder] if folder != "base" else [],
            **kwargs
        )

def kpt_py_test(name, srcs, deps = [], args = [], package = True, packages = [], **kwargs):
    """A pytest over `srcs`.

    Args:
      name: the target's name.
      srcs: test files, all given to pytest; a helper module belongs into `data`.
      deps: further libraries.
      args: further pytest arguments.
      package: make kernel_pytorch and torch importable (else pytest and its like alone).
      packages: further package repositories: "lint_packages", "minilm".
      **kwargs: of py_test.
    """
    py_test(
        name = name,
        srcs = srcs + ["//tools/build_defs:pytest_main.py"],
        main = "//tools/build_defs:pytest_main.py",
        args = args + ["$(rootpath %s)" % s for s in srcs],
        deps = deps + ["@python_packages//:packages"] + ([
            "//python:kernel_pytorch",
            "@torch//:packages",
        ] if package else []) + ["@%s//:packages" % p for p in packages],
        **kwargs
    )

def kpt_py_tests(size = "medium", exclude = [], deps = [], **kwargs):
    """One kpt_py_test per test_*.py of this package; conftest.py and other modules are shared."""
    lint_sources()
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

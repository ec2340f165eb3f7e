"""lint_sources: hands the sources of a package, and of those inside it, to the lint tests.

Every BUILD file calls it (most through the macros of tools/build_defs). //:lint_sources asks for
that of every package in the repository, so a package that forgets it does not build.
"""

_SUFFIXES = ["cc", "h", "py"]

def lint_sources():
    here = native.package_name()
    prefix = here + "/" if here else ""

    # Beside the root's own files lie Bazel's links to its outputs.
    pattern = "**/*." if here else "*."
    native.filegroup(
        name = "lint_sources",
        srcs = native.glob([pattern + suffix for suffix in _SUFFIXES], allow_empty = True) + [
            "//%s%s:lint_sources" % (prefix, inner)
            for inner in native.subpackages(
                include = ["**"],
                exclude = ["bazel-*/**"],
                allow_empty = True,
            )
        ],
        visibility = ["//:__subpackages__"],
    )

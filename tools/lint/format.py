"""Formats the sources of the repository: tools/bazel run //tools/lint:format [-- PATH...].

Python by ruff (format, then the safe fixes of its checks), C++ by clang-format. Without paths, the
whole repository. Exit status 1 if something is left that only a person can fix.
"""

import os
import pathlib
import subprocess
import sys
from collections.abc import Sequence

from absl import app

_PROGRAMS = {"ruff": "bin/ruff", "clang-format": "clang_format/data/bin/clang-format"}
_CPP = {".cc", ".h"}


def program(name: str) -> str:
    """The path of a tool that came as a Python package."""
    for folder in sys.path:
        path = pathlib.Path(folder, _PROGRAMS[name])
        if path.is_file():
            return str(path)
    raise FileNotFoundError(f"{name} is in no folder of sys.path")


def cpp_sources(root: pathlib.Path) -> list[str]:
    """The C++ files below `root`, without Bazel's folders and hidden ones."""
    found = []
    for folder, names, files in os.walk(root):
        names[:] = [n for n in names if not n.startswith((".", "bazel-"))]
        found += [str(pathlib.Path(folder, f)) for f in files if pathlib.Path(f).suffix in _CPP]
    return sorted(found)


def main(argv: Sequence[str]) -> None:
    root = pathlib.Path(os.environ.get("BUILD_WORKSPACE_DIRECTORY", "."))
    start = pathlib.Path(os.environ.get("BUILD_WORKING_DIRECTORY", root))
    paths = [start / a for a in argv[1:]] or [root]
    names = [str(p) for p in paths if p.is_dir() or p.suffix == ".py"]
    status = 0
    if names:
        subprocess.run([program("ruff"), "format", *names], check=True, cwd=root)
        status = subprocess.run([program("ruff"), "check", "--fix", *names], cwd=root).returncode
    cpp = [str(p) for p in paths if p.suffix in _CPP]
    for path in paths:
        if path.is_dir():
            cpp += cpp_sources(path)
    if cpp:
        subprocess.run([program("clang-format"), "-i", *cpp], check=True, cwd=root)
    raise SystemExit(status)


if __name__ == "__main__":
    app.run(main)

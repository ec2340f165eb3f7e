"""The sources are formatted and pass ruff, clang-format and mypy (all pinned).

`tools/bazel run //tools/lint:format` repairs what can be repaired by a program.
"""

import os
import pathlib
import subprocess
import sys

import pytest

from tools.lint.format import cpp_sources, program

# The runfiles: the project's own files only, other repositories lie beside this folder.
_ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _from_the_root(monkeypatch):
    # Runfiles are links into the source tree; tools find pyproject.toml from where they stand.
    monkeypatch.chdir(os.environ.get("TEST_SRCDIR", _ROOT.parent) + "/_main")


def _run(*command):
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"


def test_ruff_check():
    _run(program("ruff"), "check", "--no-cache", ".")


def test_ruff_format():
    _run(program("ruff"), "format", "--check", "--diff", "--no-cache", ".")


def test_clang_format():
    sources = cpp_sources(pathlib.Path("."))
    assert any(name.startswith("kernels/base/") for name in sources)
    _run(program("clang-format"), "--dry-run", "--Werror", *sources)


@pytest.mark.parametrize("layer", ["core", "ops", "backends"])
def test_mypy(layer):
    _run(sys.executable, "-m", "mypy", f"python/kernel_pytorch/{layer}")

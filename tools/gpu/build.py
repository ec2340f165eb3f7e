"""Builds the CUDA module on the machine with the GPU, by nvcc and g++ alone.

Sources and flags are those of Bazel's build: the folders of bindings/families.bzl, the flags of
tools/build_defs/cuda.bzl. Headers of nanobind and DLPack come with the carried folder.
Standard library only.
"""

from __future__ import annotations

import ast
import concurrent.futures
import os
import pathlib
import shutil
import subprocess
import sysconfig
from typing import Any

__all__ = ["architecture_of", "assignments", "build", "cuda_commands"]

ROOT = pathlib.Path(__file__).resolve().parents[2]
_DEFINES = ["-DKPT_BACKEND=cuda", "-DKPT_BACKEND_IS_CUDA=1"]


def assignments(bzl: pathlib.Path) -> dict[str, Any]:
    """The plain values that a .bzl file defines: Starlark is read as the Python it also is."""
    found: dict[str, Any] = {}
    for node in ast.parse(bzl.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            try:
                value = ast.literal_eval(node.value)
            except ValueError:
                if not isinstance(node.value, ast.BinOp):
                    continue
                left = node.value.left
                assert isinstance(left, ast.Name)
                value = found[left.id] + ast.literal_eval(node.value.right)
            found[node.targets[0].id] = value
    return found


def architecture_of(source: pathlib.Path, capability: str, rules: dict[str, Any]) -> str | None:
    """What a file is compiled for, to run on a GPU of `capability` ("90"): the architecture of its
    name, else the GPU's own; None where that is not among the named ones: PTX then serves."""
    for tuned in rules["_TUNED"]:
        if source.name.endswith(f"_sm{tuned}.cu.cc"):
            return str(tuned)
    exact = [a for a in rules["KPT_CUDA_ARCHITECTURES"] if a.rstrip("a") == capability]
    return exact[0] if exact else None


def cuda_commands(
    carry: pathlib.Path, capability: str, nvcc: str, out: pathlib.Path
) -> dict[pathlib.Path, list[str]]:
    """The command of each object file of the CUDA module, by its path."""
    rules = assignments(ROOT / "tools/build_defs/cuda.bzl")
    families = assignments(ROOT / "bindings/families.bzl")
    include = [f"-I{ROOT}", f"-I{carry / 'include'}"]
    kernels = [ROOT / "kernels/base/cuda"]
    for family in families["CUDA_KERNELS"]:
        own = ROOT / "kernels" / family
        kernels += [own, own / "gpu", own / "cuda"]
    device = sorted(p for folder in kernels for p in folder.glob("*.cu.cc"))
    host = sorted(p for folder in kernels for p in folder.glob("*.cc") if p not in device)
    host += sorted((ROOT / "kernels/base").glob("*.cc"))
    bindings = [ROOT / "bindings" / f"{f}.cc" for f in families["CUDA_FAMILIES"]]
    bindings += [ROOT / "bindings/cuda.cc", *sorted((ROOT / "bindings/cuda").glob("*.cc"))]
    bindings += [p for p in sorted((ROOT / "bindings/base").glob("*.cc")) if p.stem != "repeat"]

    toolkit = pathlib.Path(nvcc).resolve().parents[1] / "include"
    cxx = [os.environ.get("CXX", "g++"), "-std=c++17", "-fPIC", "-fvisibility=hidden", *_DEFINES]
    cxx += [*include, "-isystem", str(toolkit)]
    commands: dict[pathlib.Path, list[str]] = {}

    def add(source: pathlib.Path, command: list[str]) -> None:
        file = out / (str(source.relative_to(ROOT)).replace("/", "_") + ".o")
        commands[file] = [*command, "-c", str(source), "-o", str(file)]

    for source in device:
        arch = architecture_of(source, capability, rules)
        gencode = (
            f"-gencode=arch=compute_{arch},code=sm_{arch}"
            if arch
            else f"-gencode=arch=compute_{rules['_PTX']},code=compute_{rules['_PTX']}"
        )
        add(source, [nvcc, *rules["_FLAGS"], gencode, *_DEFINES, *include, "-x", "cu"])
    for source in host:
        add(source, [*cxx, "-O3", "-fno-exceptions", "-fno-rtti"])
    python = sysconfig.get_path("include")
    nanobind = _nanobind_defines()
    version = _version()
    for source in bindings:
        extra = ["-O2", "-fno-strict-aliasing", f"-I{python}", f'-DKPT_VERSION="{version}"']
        add(source, [*cxx, *extra, *[f"-D{d}" for d in nanobind]])
    return commands


def _nanobind_defines() -> list[str]:
    """The defines of third_party/pypi/nanobind.BUILD."""
    text = (ROOT / "third_party/pypi/nanobind.BUILD").read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.keyword) and node.arg == "defines":
            defines: list[str] = ast.literal_eval(node.value)
            return defines
    raise ValueError("nanobind.BUILD has no defines")


def _version() -> str:
    text = (ROOT / "python/kernel_pytorch/_version.py").read_text(encoding="utf-8")
    return next(line.split('"')[1] for line in text.splitlines() if line.startswith("__version__"))


def build(carry: pathlib.Path, capability: str) -> None:
    """Makes `carry`/native/cuda.abi3.so for GPUs of `capability`. Raises FileNotFoundError without
    nvcc or the carried headers, CalledProcessError when a compiler refuses."""
    nvcc = shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
    if not pathlib.Path(nvcc).exists():
        raise FileNotFoundError("no nvcc on PATH or in /usr/local/cuda/bin")
    if not (carry / "include/nanobind/nanobind.h").exists():
        raise FileNotFoundError(f"{carry}/include has no headers of nanobind")
    out = carry / "objects"
    out.mkdir(parents=True, exist_ok=True)
    commands = cuda_commands(carry, capability, nvcc, out)
    print(f"building {len(commands)} files with {nvcc}", flush=True)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda c: subprocess.run(c, check=True, cwd=ROOT), commands.values()))
    (carry / "native").mkdir(exist_ok=True)
    target = carry / "native/cuda.abi3.so"
    link = [os.environ.get("CXX", "g++"), "-shared", "-o", str(target), *map(str, commands)]
    link += [f"-Wl,--version-script={ROOT / 'bindings/exports.lds'}"]
    toolkit = pathlib.Path(nvcc).resolve().parents[1]
    link += [f"-L{toolkit / 'lib64'}", f"-L{toolkit / 'lib'}", "-lcudart_static"]
    subprocess.run([*link, "-ldl", "-lpthread", "-lrt"], check=True)

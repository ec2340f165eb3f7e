"""The process of tools/gpu/verify that touches the GPU: reads a unit's key from each line of its
input and answers with one line of JSON. What goes wrong in a unit is its outcome; after an error of
the GPU itself, from which a process does not recover, the answer asks for a new process.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable
from typing import Any

__all__ = ["main", "run"]


class _SkippedError(Exception):
    """The unit cannot be run here; the text says why."""


def _device(_: str) -> dict[str, Any]:
    import torch

    if torch.version.cuda is None or not torch.cuda.is_available():
        build = "is not built for CUDA" if torch.version.cuda is None else "finds no GPU"
        raise RuntimeError(f"PyTorch {torch.__version__} {build}")
    properties = torch.cuda.get_device_properties(0)
    driver = ""
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "-i", "0"]
        run = subprocess.run(query, check=True, capture_output=True, text=True)
        driver = run.stdout.strip()
    return {
        "name": properties.name,
        "major": properties.major,
        "minor": properties.minor,
        "multiprocessors": properties.multi_processor_count,
        "memory_bytes": properties.total_memory,
        "driver": driver,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "gpus": torch.cuda.device_count(),
    }


def _ops(_: str) -> dict[str, Any]:
    import torch  # noqa: F401  (registers the operators)

    import kernel_pytorch  # noqa: F401
    from kernel_pytorch.ops import SPECS

    return {"ops": sorted(s.name for s in SPECS.values() if "nvidia" in s.native_backends)}


def _module(_: str) -> dict[str, Any]:
    import torch  # noqa: F401

    import kernel_pytorch  # noqa: F401
    from kernel_pytorch.backends import cuda

    found = cuda.devices()
    if found.problem:
        raise RuntimeError(found.problem)
    return {
        "capabilities": [list(c) for c in found.capabilities],
        "cuda_runtime": cuda.runtime_version(),
        "variants": [list(v) for v in cuda.variants()],
    }


def _sanitizer(tool: str) -> Callable[[str], dict[str, Any]]:
    def run_tool(op: str) -> dict[str, Any]:
        program = shutil.which("compute-sanitizer")
        if program is None:
            raise _SkippedError("compute-sanitizer is not installed")
        command = [program, "--tool", tool, "--error-exitcode", "9", "--print-limit", "5"]
        command += [sys.executable, "-m", "tools.gpu.worker", f"short/{op}"]
        # Each tensor in an allocation of its own: else what is read beyond one is another's memory.
        environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
        result = subprocess.run(command, capture_output=True, text=True, env=environment)
        if result.returncode:
            raise AssertionError((result.stdout + result.stderr)[-2000:])
        return {"summary": result.stdout.strip().splitlines()[-1]}

    return run_tool


def _handlers() -> dict[str, Callable[[str], dict[str, Any]]]:
    from tools.gpu import bench, checks

    return {
        "module": _module,
        "contract": checks.contract,
        "short": checks.short,
        "memory": checks.memory,
        "streams": checks.streams,
        "large": checks.large,
        "probe": checks.product,
        "limits": bench.limits,
        "bench": bench.rows,
        "memcheck": _sanitizer("memcheck"),
        "racecheck": _sanitizer("racecheck"),
    }


def run(key: str) -> dict[str, Any]:
    """The outcome of one unit."""
    kind, _, subject = key.partition("/")
    try:
        # Before the modules are there, only PyTorch and the declarations can be asked.
        first = {"device": _device, "ops": _ops}
        handler = first[kind] if kind in first else _handlers()[kind]
        return {"status": "passed", "data": handler(subject)}
    except _SkippedError as skip:
        return {"status": "skipped", "why": str(skip)}
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        place = traceback.extract_tb(error.__traceback__)[-1]
        outcome = {"status": "failed", "error": text[:4000], "at": f"{place.name}:{place.lineno}"}
        broken = "CUDA error" in text or "cudaError" in text or "AcceleratorError" in text
        return {**outcome, "restart": True} if broken else outcome


def main() -> None:
    """Answers each line of the input; with a key as argument, runs that and exits with 0 or 1."""
    if len(sys.argv) > 1:
        outcome = run(sys.argv[1])
        print(json.dumps(outcome))
        sys.exit(outcome["status"] != "passed")
    answers = sys.stdout
    sys.stdout = sys.stderr  # whatever else is printed
    for line in sys.stdin:
        print("KPT-RESULT " + json.dumps(run(line.strip())), file=answers, flush=True)


if __name__ == "__main__":
    main()

"""On which GPU an operator's kernels last ran and held their contract, by the records of tools/gpu.

Kernels for GPUs are built and inspected everywhere; that is no proof that they run. What is said of
an operator anywhere comes from here: the newest record, or "not yet run on a GPU".
"""

from __future__ import annotations

import functools
import json
from importlib import resources
from typing import Any, NamedTuple

from kernel_pytorch.ops.spec import OpSpec

__all__ = ["GPU_BACKENDS", "NOT_YET", "GpuRun", "gpu_run", "native_on"]

GPU_BACKENDS = ("nvidia", "amd", "intel")
NOT_YET = "not yet run on a GPU"


class GpuRun(NamedTuple):
    """The newest record in which an operator passed."""

    device: str
    """As the driver calls it: "NVIDIA H200"."""
    commit: str
    date: str

    def __str__(self) -> str:
        return f"ran on {self.device}, {self.date}, commit {self.commit[:12]}"


@functools.cache
def _runs() -> dict[str, Any]:
    # Written by tools/docs from tools/gpu/results.
    text = resources.files("kernel_pytorch.backends").joinpath("gpu_runs.json").read_text("utf-8")
    runs: dict[str, Any] = json.loads(text)
    return runs


def gpu_run(op: str, backend: str) -> GpuRun | None:
    """The newest record of ``op`` on ``backend`` ("nvidia"); None when there is none."""
    found = _runs().get(backend, {}).get(op)
    return GpuRun(**found) if found else None


def native_on(spec: OpSpec) -> list[str]:
    """The backends with native kernels of an operator, those of GPUs with what is known of runs:
    ``["cpu", "nvidia (not yet run on a GPU)"]``."""
    return [
        f"{b} ({gpu_run(spec.name, b) or NOT_YET})" if b in GPU_BACKENDS else b
        for b in spec.native_backends
    ]

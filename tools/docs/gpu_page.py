"""The page about GPUs: what is built, how it is proved without one, and what ran where, from the
records under tools/gpu/results."""

from __future__ import annotations

import json
import pathlib
from typing import Any

from kernel_pytorch.backends.gpu_runs import NOT_YET, gpu_run
from kernel_pytorch.ops import SPECS
from tools.gpu import records

__all__ = ["RUNS", "page", "runs"]

RUNS = "python/kernel_pytorch/backends/gpu_runs.json"
_RESULTS = pathlib.PurePath("tools", "gpu", "results")

_TEXT = """\
# NVIDIA GPUs

The wheel holds kernels for compute capability 8.0 (Ampere), 8.9 (Ada), 9.0 (Hopper), 10.0 and 12.0
(Blackwell), and PTX that the driver compiles for others from 8.0 on. On older GPUs, and for
operators without kernels here, the references run ([dispatch](dispatch.md)).

Devices, streams and memory are torch's: a kernel runs on the device of its tensors, on torch's
current stream, and writes into tensors that torch allocated. It neither waits nor allocates, so
CUDA graphs capture it. The CUDA runtime is linked into the module and finds the driver when a
kernel is first launched; the module imports on machines without either, where `kpt doctor` says
what is missing. What goes wrong on a GPU is a `RuntimeError` with the operator's and the kernel's
name.

## What has run

Kernels are built and looked at everywhere; that is no proof that they run. What is said of an
operator, here and in `kpt ops`, comes from the records of `tools/gpu/verify` alone.

{runs}
{speed}## Proved without a GPU

`tools/bazel test //tests/kernels/cuda/...` compiles every kernel for every architecture and reads
the machine code: no spilled registers and no arrays in local memory, registers and shared memory
as `tests/kernels/cuda/declared.py` says, the resident warps that follow, the tensor cores'
instructions where they should be (`HGMMA`, `UTMALDG`), and none that exists on one architecture
alone in portable kernels. Descriptors, swizzles, register layouts and tensor maps are plain
arithmetic with tests on the CPU; the kernels that CUDA and HIP share run there too, a block's
threads emulated.

## Proved on a GPU

On a machine with Bazel:

    tools/gpu/prepare                 # build/gpu: the module and what it imports, some MB

On a machine with a GPU and PyTorch, with the working tree and build/gpu:

    tools/gpu/verify                  # ten minutes; again, to go on where it stopped
    tools/gpu/verify --build          # compiles the module there, by nvcc and g++ alone

It runs the contract of every operator with kernels for NVIDIA GPUs (error against float64 relative
to eager PyTorch on the same device, every variant, dtype and case), what only GPUs have (side
streams, graphs, several devices, more than 2^31 elements), compute-sanitizer on a few, the card's
own limits, and benchmarks beside PyTorch; most important first. Each unit runs in a process that
may crash alone, and its outcome is written at once. Commit the file under `tools/gpu/results`, then
run `tools/bazel run //tools/docs`.
"""


def runs(root: pathlib.Path) -> str:
    """The text of gpu_runs.json."""
    return json.dumps(records.newest_runs(root / _RESULTS), indent=1, sort_keys=True) + "\n"


def _line(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |\n"


def _speed(found: dict[str, Any]) -> str:
    rows = [
        row
        for key, unit in sorted(found["units"].items())
        if key.startswith("bench/")
        for row in unit.get("data", {}).get("rows", [])
    ]
    if not rows:
        return ""
    limits = found["units"].get("limits/device", {}).get("data", {})
    ceilings = ", ".join(f"{name} {rate / 1e12:.2f} T/s" for name, rate in limits.items())
    text = f"## Speed\n\n{found['device']['name']}, commit {found['commit'][:12]}. "
    text += f"Limits measured in the same run: {ceilings}.\n\n"
    text += _line(("operator", "shape", "dtype", "us", "of limit", "ratio", "over"))
    text += _line(("---", "---", "---", "---:", "---:", "---:", "---"))
    for r in rows:
        ratio = "-" if r["ratio"] is None else f"{r['ratio']:.2f}x"
        numbers = (f"{r['seconds'] * 1e6:.1f}", f"{100 * r['share']:.0f}%", ratio)
        text += _line((f"`{r['op']}`", r["name"], r["dtype"], *numbers, r["peer"]))
    return text + "\n"


def page(root: pathlib.Path) -> str:
    """docs/gpu.md."""
    ops = sorted(s.name for s in SPECS.values() if "nvidia" in s.native_backends)
    table = _line(("operator", "newest run")) + _line(("---", "---"))
    for op in ops:
        table += _line((f"[`{op}`](ops/{op}.md)", str(gpu_run(op, "nvidia") or NOT_YET)))
    found = [r for r in records.read_all(root / _RESULTS) if r["backend"] == "nvidia"]
    return _TEXT.format(runs=table, speed=_speed(found[0]) if found else "")

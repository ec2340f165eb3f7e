"""Threads: PyTorch's, which the kernels share, against the cores that this process may use."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from kernel_pytorch.cli.doctor.finding import Finding, Status, read_text
from kernel_pytorch.cli.doctor.software import torch_problem
from kernel_pytorch.core.hardware_detector import Probe, processor

__all__ = ["check", "cpu_quota", "openmp_runtimes", "physical_cores"]

_RUNTIME = re.compile(r"(\S*/(lib(?:gomp|iomp5|omp)[-.\w]*\.so[.\d]*))$", re.MULTILINE)


def physical_cores(cpus: set[int], root: Path = Path("/")) -> int:
    """Cores among ``cpus``: hardware threads of one core count once."""
    return processor.physical_cores(Probe(root), cpus)


def cpu_quota(root: Path = Path("/")) -> float | None:
    """How many CPUs' time the control group grants (containers); None without a limit."""
    text = read_text(root / "sys/fs/cgroup/cpu.max").split()
    if len(text) == 2 and text[0].isdigit():
        return int(text[0]) / int(text[1])
    quota = read_text(root / "sys/fs/cgroup/cpu/cpu.cfs_quota_us")
    period = read_text(root / "sys/fs/cgroup/cpu/cpu.cfs_period_us")
    if quota.isdigit() and period.isdigit() and int(period):
        return int(quota) / int(period)
    return None


def openmp_runtimes(maps: str) -> list[str]:
    """Paths of the OpenMP runtimes in the text of a ``/proc/<pid>/maps``."""
    return sorted({match[0] for match in _RUNTIME.findall(maps)})


def check() -> list[Finding]:
    """Thread count against cores and quota, and the OpenMP runtimes that are loaded."""
    if torch_problem():
        return []
    import torch

    allowed = os.sched_getaffinity(0)
    cores, quota = physical_cores(allowed), cpu_quota()
    threads = torch.get_num_threads()
    wanted = cores if quota is None else max(1, min(cores, int(quota)))
    data: dict[str, Any] = {
        "torch_threads": threads,
        "physical_cores": cores,
        "usable_cpus": len(allowed),
        "cpu_quota": quota,
        "environment": {k: v for k, v in os.environ.items() if k.startswith(("OMP_", "KMP_"))},
    }
    value = f"{threads} for {cores} cores" + (f", quota {quota:g} CPUs" if quota else "")
    status, why = Status.OK, ""
    if threads > wanted:
        status = Status.PROBLEM
        why = f"More threads than the {wanted} cores they get wait for each other in every kernel."
    elif threads < wanted:
        status = Status.ADVICE
        why = f"{wanted - threads} of the cores that this process may use stay idle."
    found = [
        Finding(
            area="threads",
            name="count",
            value=value,
            status=status,
            why=why,
            fix=f"export OMP_NUM_THREADS={wanted}" if why else "",
            data=data,
        )
    ]
    return [*found, _runtime()]


def _runtime() -> Finding:
    runtimes = openmp_runtimes(read_text(Path("/proc/self/maps")))
    names = [Path(path).name for path in runtimes]
    data = {"openmp_runtimes": runtimes}
    if len(runtimes) > 1:
        return Finding(
            area="threads",
            name="OpenMP",
            value=f"{len(runtimes)} runtimes: {', '.join(names)}",
            status=Status.PROBLEM,
            why="Two OpenMP runtimes in one process each start their own threads.",
            fix=f"export LD_PRELOAD={runtimes[0]}",
            data=data,
        )
    if not runtimes:
        return Finding(
            area="threads",
            name="OpenMP",
            value="no runtime",
            status=Status.PROBLEM,
            why="PyTorch has loaded no OpenMP runtime that kernels could share: they run on one "
            "thread.",
            fix="pip install --force-reinstall torch",
            data=data,
        )
    return Finding(
        area="threads",
        name="OpenMP",
        value=f"{names[0]}, PyTorch's own: kernels share its threads",
        data=data,
    )

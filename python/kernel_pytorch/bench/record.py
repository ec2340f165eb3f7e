"""The record of a benchmark run: rows, the machine, versions and commit; as JSON and back."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import platform
from dataclasses import dataclass, field
from typing import Any

import torch

from kernel_pytorch._version import __version__
from kernel_pytorch.backends import cpu
from kernel_pytorch.bench.caches import last_level_bytes
from kernel_pytorch.core import provenance

__all__ = ["Machine", "Overhead", "Record", "Row", "Versions", "machine", "versions"]

FORMAT = 1
_TELLING = ("ATEN_", "DNNL_", "GLIBC_", "GOMP_", "KMP_", "KPT_", "LD_PRELOAD", "MALLOC_", "MKL_")
_TELLING += ("OMP_", "ONEDNN_")


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What was measured on."""

    cpu: str
    cores: int
    isa: str
    """The ISA level of the kernels."""
    detected_isa: str
    threads: int
    l2_bytes: int
    l3_bytes: int
    """What this process's cores reach of it."""
    memory_bytes: int
    system: str


@dataclass(frozen=True, kw_only=True)
class Versions:
    """Versions and commit; ``commit`` is empty outside a checkout, "+" marks local changes."""

    kernel_pytorch: str
    torch: str
    torch_cpu_capability: str
    onednn_isa_limit: str
    """ONEDNN_MAX_CPU_ISA, when it was set for PyTorch's side."""
    python: str
    commit: str
    environment: dict[str, str] = field(default_factory=dict)
    """Variables that change how threads, memory or kernels behave, if set."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One benchmark. Times are medians in seconds a call; ratio is PyTorch's over ours."""

    op: str
    family: str
    name: str
    dtype: str
    kpt: float
    torch: float
    ratio: float
    ratio_low: float
    ratio_high: float
    limit_share: float
    """The least time that the limits of the same minute allow, over ours."""
    bound: str
    variant: str
    native: bool
    residency: str
    out: bool
    pairs: int
    dropped: int
    unsteady: bool
    goal_ratio: float | None = None
    goal_share: float | None = None
    """What the row is to reach (:mod:`kernel_pytorch.bench.goals`); None: no goal was set."""
    goal_why: str = ""
    """Why the goal is missed, as it was measured."""

    @property
    def met(self) -> bool | None:
        """Whether every goal of the row is reached; None without one."""
        if self.goal_ratio is None and self.goal_share is None:
            return None
        return self.ratio >= (self.goal_ratio or 0) and self.limit_share >= (self.goal_share or 0)


@dataclass(frozen=True, kw_only=True)
class Overhead:
    """A call on tensors so small that nearly all of it is overhead: seconds a call."""

    name: str
    kpt: float
    kernel: float | None = None
    """Of ``kpt``, the kernel alone; None where it could not be told apart."""
    torch: float
    torch_name: str


@dataclass(frozen=True, kw_only=True)
class Record:
    """A whole run."""

    machine: Machine
    versions: Versions
    date: str
    limits: dict[str, float]
    limit_variants: dict[str, str]
    rows: list[Row]
    overhead: list[Overhead] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    """Rows that did not run, and why."""
    interrupted: bool = False
    """Ctrl-C ended the run: rows that had not begun are missing."""
    format: int = FORMAT

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Record:
        """Raises ValueError for a record of another format."""
        if data.get("format") != FORMAT:
            raise ValueError(f"benchmark record has format {data.get('format')}, not {FORMAT}")
        fields = dict(data)
        fields["machine"] = Machine(**data["machine"])
        fields["versions"] = Versions(**data["versions"])
        fields["rows"] = [Row(**row) for row in data["rows"]]
        fields["overhead"] = [Overhead(**row) for row in data["overhead"]]
        return cls(**fields)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Record:
        with open(path, encoding="utf-8") as file:
            return cls.from_json(json.load(file))


def machine() -> Machine:
    """This machine, as the kernels and the system see it."""
    features = cpu.cpu_features()
    return Machine(
        cpu=provenance.cpu_name(),
        cores=len(os.sched_getaffinity(0)),
        isa=cpu.isa(),
        detected_isa=cpu.detected_isa(),
        threads=torch.get_num_threads(),
        l2_bytes=features["l2_bytes"],
        l3_bytes=last_level_bytes() or features["l3_bytes"],
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        system=f"{platform.system()} {platform.release().split('-')[0]}",
    )


def versions() -> Versions:
    """Versions of what ran, and the commit if this is a checkout."""
    return Versions(
        kernel_pytorch=__version__,
        torch=torch.__version__,
        torch_cpu_capability=torch.backends.cpu.get_cpu_capability(),
        onednn_isa_limit=os.environ.get("ONEDNN_MAX_CPU_ISA", ""),
        python=platform.python_version(),
        commit=provenance.commit(),
        environment={
            name: value for name, value in sorted(os.environ.items()) if name.startswith(_TELLING)
        },
    )


def today() -> str:
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")

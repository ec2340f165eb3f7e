"""The sign-off of a machine: what runs for every operator on every backend, how exactly, how fast.

Native, fallback and skipped are three things, and never added up. What is not in this machine is
skipped with the reason; nothing is taken from records.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from kernel_pytorch.bench import tables
from kernel_pytorch.bench.record import Record
from kernel_pytorch.core.hardware_detector import HardwareType, detect_hardware
from kernel_pytorch.core.html import document, table
from kernel_pytorch.ops import SPECS, contract
from kernel_pytorch.ops.spec import Case, OpSpec
from kernel_pytorch.validation.hardware import hardware_checks
from kernel_pytorch.validation.kernels import KernelResult, contract_result
from kernel_pytorch.validation.report import ValidationLevel, ValidationSummary, run_checks

__all__ = ["BACKENDS", "MachineReport", "validate_machine"]

BACKENDS = ("cpu", "nvidia", "amd", "intel", "tpu")
_KINDS = {
    "nvidia": HardwareType.NVIDIA_GPU,
    "amd": HardwareType.AMD_GPU,
    "intel": HardwareType.INTEL_GPU,
    "tpu": HardwareType.TPU,
}
_DEVICES = {"cpu": "cpu", "nvidia": "cuda", "amd": "cuda", "intel": "xpu", "tpu": "xla"}
_CASES = {
    ValidationLevel.MINIMAL: 1,
    ValidationLevel.STANDARD: 3,
    ValidationLevel.STRICT: 12,
    ValidationLevel.COMPREHENSIVE: 10**6,
}


@dataclass(frozen=True, kw_only=True)
class MachineReport:
    """What :func:`validate_machine` found."""

    level: str
    environment: dict[str, str]
    hardware: ValidationSummary
    kernels: list[KernelResult]
    speed: Record | None = field(default=None)
    """None: not asked for."""

    def count(self, implementation: str) -> int:
        """How many operators in a dtype on a backend were "native", "fallback", ..."""
        return sum(k.implementation == implementation for k in self.kernels)

    @property
    def failures(self) -> list[str]:
        """What stands against signing the machine off, a sentence each."""
        found = [
            f"{k.op} {k.dtype} on {k.backend}: {k.reason}"
            for k in self.kernels
            if k.implementation == "failed"
        ]
        found += [
            f"{r.name}: {r.message}" for r in self.hardware.reports if r.status.value == "failed"
        ]
        if self.speed is not None:
            found += [f"{row}: {why}" for row, why in self.speed.skipped.items()]
        return found

    def table(self) -> dict[str, dict[str, Counter[str]]]:
        """Operator -> backend -> how often each implementation, over the dtypes."""
        found: dict[str, dict[str, Counter[str]]] = {}
        for k in self.kernels:
            backends = found.setdefault(k.op, {})
            backends.setdefault(k.backend, Counter())[k.implementation] += 1
        return found

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data."""
        return {
            "level": self.level,
            "valid": not self.failures,
            "failures": self.failures,
            "counts": dict(Counter(k.implementation for k in self.kernels)),
            "environment": self.environment,
            "hardware": self.hardware.to_dict(),
            "kernels": [dataclasses.asdict(k) for k in self.kernels],
            "speed": None if self.speed is None else self.speed.to_json(),
        }

    def to_json(self) -> str:
        """:meth:`to_dict` as JSON text."""
        return json.dumps(self.to_dict(), indent=2, default=str)

    def to_html(self) -> str:
        """A self-contained page, to be attached to a release."""
        verdict = "Signed off." if not self.failures else "Not signed off."
        parts = [f"<p><b>{verdict}</b> Checked at level {self.level}.</p>"]
        if self.failures:
            parts.append(table(("what stands against it",), [(f,) for f in self.failures]))
        backends = [b for b in BACKENDS if any(k.backend == b for k in self.kernels)]
        rows = [
            (op, *(words(found.get(b, Counter())) for b in backends))
            for op, found in self.table().items()
        ]
        parts.append("<h2>What runs</h2>" + table(("operator", *backends), rows))
        reasons = [
            (f"{k.op} {k.dtype}", k.backend, k.reason)
            for k in self.kernels
            if k.implementation in ("fallback", "failed")
        ]
        if reasons:
            parts.append(table(("fallback or failure", "backend", "why"), reasons))
        errors = [error_cells(k) for k in self.kernels if k.error is not None]
        parts.append("<h2>Errors against float64</h2>" + table(ERRORS, errors, range(3, 7)))
        if self.speed is not None:
            speeds = [tables.cells(row) for row in self.speed.rows]
            parts.append("<h2>Speed</h2>" + table(tables.HEADER, speeds, range(3, 7)))
        checks = [(r.name, r.status.value, r.message) for r in self.hardware.reports]
        parts.append("<h2>Hardware</h2>" + table(("check", "result", "found"), checks))
        parts.append("<h2>Environment</h2>" + table(("", ""), list(self.environment.items())))
        return document("Validation of a machine", "".join(parts))


ERRORS = ("operator", "dtype", "backend", "rms error", "PyTorch's", "bound", "of bound", "variants")
"""Header of the table of errors."""


def error_cells(k: KernelResult) -> tuple[str, ...]:
    """One row of it."""
    share = "" if not k.bound else f"{100 * (k.error or 0.0) / k.bound:.0f}%"
    numbers = ("" if v is None else f"{v:.2e}" for v in (k.error, k.eager_error, k.bound))
    return (k.op, k.dtype, k.backend, *numbers, share, ", ".join(k.variants) or "reference")


def words(counts: Counter[str]) -> str:
    """ "native", or "2 native, 1 fallback"."""
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{n} {name}" for name, n in sorted(counts.items(), reverse=True))


def validate_machine(
    level: ValidationLevel = ValidationLevel.STANDARD,
    *,
    ops: Sequence[str] = (),
    speed: Callable[[], Record] | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> MachineReport:
    """Runs the contract of every operator on every backend that this machine has.

    Args:
        level: 1, 3 or 12 cases of each operator and dtype and one for each of its options, or all.
        ops: only these; all without.
        speed: makes the table of speeds, if wanted.
        say: called with a line before each step.

    Raises ValueError for an unknown operator.
    """
    unknown = sorted(set(ops) - set(SPECS))
    if unknown:
        raise ValueError(f"{', '.join(unknown)}: unknown; there are {', '.join(sorted(SPECS))}")
    specs = [SPECS[name] for name in sorted(ops or SPECS)]
    say("checking the hardware")
    devices = [b for b in BACKENDS if not _absent(b)]
    hardware = run_checks(
        check for b in devices for check in _named(b, hardware_checks(torch.device(_DEVICES[b])))
    )
    kernels: list[KernelResult] = []
    for backend in BACKENDS:
        why_not = _absent(backend)
        for spec in specs:
            if not why_not:
                say(f"{spec.name} on {backend}")
            kernels += _results(spec, backend, why_not, _cases(spec, level))
    record = None
    if speed is not None:
        say("measuring speeds")
        record = speed()
    return MachineReport(
        level=level.value,
        environment=_environment(),
        hardware=hardware,
        kernels=kernels,
        speed=record,
    )


def _absent(backend: str) -> str:
    """Why a backend has no device here that PyTorch can use; "" when it has."""
    if backend == "cpu":
        return ""
    here = [a for a in detect_hardware().accelerators if a.hardware_type is _KINDS[backend]]
    if not here:
        return f"this machine has no {backend} device"
    usable = [a for a in here if a.usable]
    return "" if usable else f"{here[0].name}: {here[0].why_not}"


def _named(backend: str, checks: Sequence[Any]) -> list[Any]:
    return [dataclasses.replace(c, name=f"{backend}: {c.name}") for c in checks]


def _cases(spec: OpSpec, level: ValidationLevel) -> list[Case]:
    count = _CASES[level]
    if count == 1:
        return list(contract.served_cases(spec)[:1])
    return contract.small_cases(spec, count)


def _results(spec: OpSpec, backend: str, why_not: str, cases: Sequence[Case]) -> list[KernelResult]:
    if not why_not:
        device = _DEVICES[backend]
        return [
            contract_result(spec, dtype, cases, backend=backend, device=device)
            for dtype in spec.dtypes
        ]
    return [
        KernelResult(
            op=spec.name,
            family=spec.family,
            dtype=contract.short(dtype),
            backend=backend,
            implementation="skipped",
            reason=why_not,
        )
        for dtype in spec.dtypes
    ]


def _environment() -> dict[str, str]:
    from kernel_pytorch.bench import record

    machine, versions = record.machine(), record.versions()
    return {
        "date": record.today(),
        "machine": tables.machine_text(machine),
        "kernel_pytorch": f"{versions.kernel_pytorch} ({versions.commit or 'no commit'})",
        "torch": f"{versions.torch} ({versions.torch_cpu_capability})",
        "python": versions.python,
        **versions.environment,
        **{
            f"device {a.index}": f"{a.name} ({a.architecture or 'unknown'}), "
            f"{a.memory_bytes / 2**30:.1f} GiB, driver {a.driver_version or 'unknown'}"
            for a in detect_hardware().accelerators
        },
    }

"""A record as lines of text cells, shared by the terminal, the page and the documents."""

from __future__ import annotations

from collections.abc import Iterable

from kernel_pytorch.bench.record import Machine, Overhead, Record, Row

__all__ = [
    "HEADER",
    "cells",
    "goal_text",
    "limit_text",
    "machine_text",
    "missed_texts",
    "overhead_row",
    "rate_text",
    "time_text",
    "versions_text",
]

HEADER = (
    "op",
    "shape",
    "dtype",
    "KPT",
    "PyTorch",
    "ratio",
    "95% interval",
    "of limit",
    "goal",
    "variant",
)


def time_text(seconds: float) -> str:
    """Three significant digits with a unit: "12.3 us"."""
    for factor, unit in ((1e6, "us"), (1e3, "ms")):
        if seconds * factor < 1000:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds:.3g} s"


def rate_text(name: str, rate: float) -> str:
    """A limit: "216 GFLOP/s", "13.1 GB/s"."""
    unit = {"read": "GB/s", "copy": "GB/s", "int8": "GOP/s"}.get(name, "GFLOP/s")
    return f"{rate / 1e9:.0f} {unit}" if rate >= 1e11 else f"{rate / 1e9:.3g} {unit}"


def cells(row: Row) -> tuple[str, ...]:
    """One text per column of :data:`HEADER`."""
    name = row.name + (" (out=)" if row.out and "out" not in row.name else "")
    name += " (in cache)" if row.residency.startswith("in cache") else ""
    return (
        row.op,
        name,
        row.dtype,
        time_text(row.kpt),
        time_text(row.torch),
        f"{row.ratio:.2f}x",
        f"{row.ratio_low:.2f} - {row.ratio_high:.2f}",
        f"{100 * row.limit_share:.0f}% {row.bound}",
        goal_text(row),
        row.variant + (" (unsteady machine)" if row.unsteady else ""),
    )


def overhead_row(item: Overhead) -> tuple[str, str, str, str, str]:
    """A call and its time, of it the kernel's, and PyTorch's call and time."""
    kernel = "" if item.kernel is None else time_text(item.kernel)
    return item.name, time_text(item.kpt), kernel, item.torch_name, time_text(item.torch)


def goal_text(row: Row) -> str:
    """The row's goal and whether it was reached: "2.4x, 75%: met"; empty without one."""
    if row.met is None:
        return ""
    parts = [
        "" if row.goal_ratio is None else f"{row.goal_ratio:g}x",
        "" if row.goal_share is None else f"{100 * row.goal_share:.0f}%",
    ]
    return f"{', '.join(filter(None, parts))}: {'met' if row.met else 'missed'}"


def missed_texts(rows: Iterable[Row]) -> list[str]:
    """Why goals were missed, each reason once, after the rows it holds for."""
    names: dict[str, list[str]] = {}
    for row in rows:
        if row.met is False and row.goal_why:
            names.setdefault(row.goal_why, []).append(f"{row.op} {row.name} {row.dtype}")
    return [f"{', '.join(found)}: {why}" for why, found in names.items()]


def machine_text(machine: Machine) -> str:
    """One line on the machine."""
    return (
        f"{machine.cpu}, {machine.cores} cores, {machine.threads} threads, kernels up to "
        f"{machine.isa}, L2 {machine.l2_bytes >> 10} KiB a core, "
        f"L3 {machine.l3_bytes >> 20} MiB, {machine.memory_bytes / 2**30:.0f} GiB, "
        f"{machine.system}"
    )


def versions_text(record: Record) -> str:
    """One line on what ran, when, and in which environment."""
    v = record.versions
    limited = f", oneDNN limited to {v.onednn_isa_limit}" if v.onednn_isa_limit else ""
    variables = "".join(f", {name}={value}" for name, value in v.environment.items())
    return (
        f"KernelPyTorch {v.kernel_pytorch} ({v.commit or 'no commit'}), PyTorch {v.torch} "
        f"({v.torch_cpu_capability}{limited}), Python {v.python}, {record.date}{variables}"
    )


def limit_text(record: Record) -> str:
    """One line on the measured limits."""
    parts = [
        f"{name} {rate_text(name, rate)}"
        + (f" ({record.limit_variants[name]})" if name in record.limit_variants else "")
        for name, rate in record.limits.items()
    ]
    return ", ".join(parts)

"""Benchmark rows as runs of the performance store, with PyTorch's side as their reference."""

from __future__ import annotations

import torch

from kernel_pytorch.backends import cpu
from kernel_pytorch.bench.measure import Paired
from kernel_pytorch.bench.record import Record, Row
from kernel_pytorch.core import provenance
from kernel_pytorch.core.comparison import Measured
from kernel_pytorch.core.performance_store import PerformanceMetrics
from kernel_pytorch.core.performance_tracker import now
from kernel_pytorch.core.stats import Interval

__all__ = ["measured_rows", "tracked"]

_REFERENCE = "PyTorch"


def _name(row: Row) -> str:
    hot = " in cache" if row.residency.startswith("in cache") else ""
    return f"{row.op} {row.name} {row.dtype}{hot}"


def _machine(cpu_model: str, cores: int, threads: int, isa: str) -> dict[str, str]:
    return {"cpu": cpu_model, "cores": str(cores), "threads": str(threads), "isa": isa}


def tracked(row: Row, paired: Paired, busy: float | None) -> PerformanceMetrics:
    """The run of one row, which was measured just now."""
    found = provenance.machine(torch.device("cpu"))
    return PerformanceMetrics(
        model_name=_name(row),
        model_hash=f"op:{_name(row)}",
        timestamp=now(),
        latency_ms=1e3 * paired.first,
        throughput=1 / paired.first,
        memory_mb=None,
        backend="cpu",
        optimization_level="",
        device="cpu",
        batch_size=1,
        additional_metrics={"variant": row.variant, "ratio": row.ratio},
        samples=tuple(ours for ours, _ in paired.samples),
        reference=tuple(theirs for _, theirs in paired.samples),
        reference_name=_REFERENCE,
        # Collapsed cores were seen and left out; only where they were the rule is the row unsteady.
        busy=busy if row.unsteady else None,
        machine=_machine(found["cpu"], int(found["cores"]), int(found["threads"]), cpu.isa()),
        versions=provenance.versions(),
        commit=provenance.commit(),
    )


def measured_rows(record: Record) -> dict[str, list[Measured]]:
    """The rows of a record, which holds medians and intervals alone, to be compared with others."""
    m = record.machine
    found: dict[str, list[Measured]] = {}
    for row in record.rows:
        name = _name(row)
        found[f"op:{name}/cpu/"] = [
            Measured(
                subject=f"op:{name}/cpu/",
                title=f"{name} / cpu",
                seconds=Interval(row.kpt, row.kpt, row.kpt),
                relative=Interval(1 / row.ratio, 1 / row.ratio_high, 1 / row.ratio_low),
                reference_name=_REFERENCE,
                machine=_machine(m.cpu, m.cores, m.threads, m.isa),
            )
        ]
    return found

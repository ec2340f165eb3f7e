"""What was planned, measured and decided: plain data, with JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from typing import Any

from kernel_pytorch.optimize.measure import Difference, Timing

__all__ = ["Left", "Report", "Row", "WholeModel"]


@dataclass(kw_only=True)
class Row:
    """One kind of replacement at one shape: measured once, applied to all its modules."""

    kind: str
    ops: tuple[str, ...]
    modules: list[str]
    shapes: str
    """Shapes of the tensor inputs, as "32x128x384"."""
    timing: Timing | None = None
    """Seconds of one module, original and replacement."""
    difference: Difference | None = None
    """Of the modules' outputs on the example inputs, the worst module."""
    ran: str = ""
    """Which implementations ran: "native" with its variants, or "reference" with the reason."""
    kept: bool = False
    reason: str = ""
    """Why it was not kept (in a plan: why it would not be)."""
    extra_bytes: int = 0
    """Packed weights of all its modules, beside the originals."""

    @property
    def count(self) -> int:
        return len(self.modules)


@dataclass(kw_only=True)
class Left:
    """Modules that stay as they are, for one reason."""

    reason: str
    modules: list[str]


@dataclass(kw_only=True)
class WholeModel:
    """The whole model on the example inputs, original and optimized, timed in pairs."""

    timing: Timing
    difference: Difference
    batch: int
    """Examples per call: the first dimension of the first tensor input."""
    weight_bytes: int
    """The model's parameters and buffers."""
    extra_bytes: int
    """Packed weights beside them (the originals stay, for :func:`revert` and uncovered calls)."""

    @property
    def throughput(self) -> tuple[float, float]:
        """Examples per second, before and after."""
        return self.batch / self.timing.before, self.batch / self.timing.after


@dataclass(kw_only=True)
class Report:
    """What :func:`plan` found or :func:`optimize` did. Print it, or take its JSON or HTML."""

    planned_only: bool
    model_class: str
    precision: str
    max_error: float
    rows: list[Row] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)
    model: WholeModel | None = None
    notes: list[str] = field(default_factory=list)
    """What was decided about the model as a whole."""
    environment: dict[str, Any] = field(default_factory=dict)
    """Versions, threads, instruction set, date."""
    seconds: float = 0.0
    """How long it took."""

    @property
    def kept(self) -> int:
        """How many modules were replaced (in a plan: would be tried with a gain)."""
        return sum(row.count for row in self.rows if row.kept)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data: times in milliseconds, sizes in bytes."""
        rows = [
            {
                "kind": row.kind,
                "ops": list(row.ops),
                "count": row.count,
                "modules": row.modules,
                "shapes": row.shapes,
                **_timing(row.timing),
                **_difference(row.difference),
                "ran": row.ran,
                "kept": row.kept,
                "reason": row.reason,
                "extra_bytes": row.extra_bytes,
            }
            for row in self.rows
        ]
        whole = None
        if self.model is not None:
            before, after = self.model.throughput
            whole = {
                **_timing(self.model.timing),
                **_difference(self.model.difference),
                "batch": self.model.batch,
                "throughput_before": before,
                "throughput_after": after,
                "weight_bytes": self.model.weight_bytes,
                "extra_bytes": self.model.extra_bytes,
            }
        return {
            "planned_only": self.planned_only,
            "model_class": self.model_class,
            "precision": self.precision,
            "max_error": self.max_error,
            "replacements": rows,
            "left": [dataclasses.asdict(item) for item in self.left],
            "model": whole,
            "notes": self.notes,
            "environment": self.environment,
            "seconds": self.seconds,
        }

    @staticmethod
    def from_dict(found: dict[str, Any]) -> Report:
        """What :meth:`to_dict` gave."""
        rows = [
            Row(
                kind=row["kind"],
                ops=tuple(row["ops"]),
                modules=row["modules"],
                shapes=row["shapes"],
                timing=_timing_of(row),
                difference=_difference_of(row),
                ran=row["ran"],
                kept=row["kept"],
                reason=row["reason"],
                extra_bytes=row["extra_bytes"],
            )
            for row in found["replacements"]
        ]
        whole = found["model"]
        model = None
        if whole is not None:
            timing, difference = _timing_of(whole), _difference_of(whole)
            assert timing is not None and difference is not None
            model = WholeModel(
                timing=timing,
                difference=difference,
                batch=whole["batch"],
                weight_bytes=whole["weight_bytes"],
                extra_bytes=whole["extra_bytes"],
            )
        plain = ("planned_only", "model_class", "precision", "max_error", "notes", "environment")
        return Report(
            rows=rows,
            left=[Left(**item) for item in found["left"]],
            model=model,
            seconds=found["seconds"],
            **{name: found[name] for name in plain},
        )

    def to_json(self) -> str:
        """:meth:`to_dict` as JSON text."""
        return json.dumps(self.to_dict(), indent=2)

    def to_html(self) -> str:
        """A self-contained page with plots; no scripts, nothing fetched."""
        from kernel_pytorch.optimize.html import page

        return page(self)

    def __rich__(self) -> Any:
        from kernel_pytorch.optimize.table import render

        return render(self)

    def __str__(self) -> str:
        from kernel_pytorch.optimize.table import as_text

        return as_text(self)

    __repr__ = __str__


def _timing(timing: Timing | None) -> dict[str, Any]:
    if timing is None:
        return {"before_ms": None, "after_ms": None, "speedup": None, "speedup_interval": None}
    return {
        "before_ms": timing.before * 1e3,
        "after_ms": timing.after * 1e3,
        "speedup": timing.speedup,
        "speedup_interval": [timing.low, timing.high],
        "pairs": timing.pairs,
    }


def _difference(difference: Difference | None) -> dict[str, Any]:
    if difference is None:
        return {"error": None, "cosine": None, "max_abs": None}
    # JSON has no infinity.
    values = dataclasses.asdict(difference)
    return {k: v if math.isfinite(v) else None for k, v in values.items()}


def _timing_of(found: dict[str, Any]) -> Timing | None:
    if found["before_ms"] is None:
        return None
    low, high = found["speedup_interval"]
    return Timing(
        before=found["before_ms"] / 1e3,
        after=found["after_ms"] / 1e3,
        speedup=found["speedup"],
        low=low,
        high=high,
        pairs=found["pairs"],
    )


def _difference_of(found: dict[str, Any]) -> Difference | None:
    if found["cosine"] is None:
        return None
    error, max_abs = (math.inf if found[n] is None else found[n] for n in ("error", "max_abs"))
    return Difference(error=error, cosine=found["cosine"], max_abs=max_abs)

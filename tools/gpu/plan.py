"""The units of a verification, most important first. Plain data: decided without a GPU."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

__all__ = ["SANITIZED_OPS", "Unit", "plan"]

SANITIZED_OPS = 4
"""Operators that compute-sanitizer runs, the longest unverified ones: it is fifty times slower."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unit:
    """What is run, kept and skipped as one."""

    kind: str
    subject: str
    limit_s: int
    """After which it is stopped."""

    @property
    def key(self) -> str:
        return f"{self.kind}/{self.subject}"


def plan(ops: Sequence[str], last_run: Mapping[str, str]) -> list[Unit]:
    """Units for these operators; `last_run` holds the date of the newest record of each that has
    one. Whether a kernel is right comes before what else is asked of it, and that before how fast
    it is; what was never run before what was, what was run long ago before what was lately."""
    order = sorted(ops, key=lambda op: (last_run.get(op, ""), op))
    units = [Unit(kind="module", subject="cuda", limit_s=60)]
    units += [Unit(kind="contract", subject=op, limit_s=120) for op in order]
    units += [Unit(kind="probe", subject="product", limit_s=60)]
    units += [Unit(kind="limits", subject="device", limit_s=60)]
    units += [Unit(kind="streams", subject=op, limit_s=60) for op in order]
    units += [Unit(kind="bench", subject=op, limit_s=120) for op in order]
    units += [Unit(kind="memory", subject=op, limit_s=60) for op in order]
    for tool in ("memcheck", "racecheck"):
        units += [Unit(kind=tool, subject=op, limit_s=120) for op in order[:SANITIZED_OPS]]
    units += [Unit(kind="large", subject=op, limit_s=60) for op in order]
    return units

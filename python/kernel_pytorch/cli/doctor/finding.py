"""What a check found."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Finding", "Status", "read_text"]


class Status(enum.Enum):
    """How a finding bears on running kernels here."""

    OK = "ok"
    ADVICE = "advice"
    """Everything works; something could be faster or is worth knowing."""
    PROBLEM = "problem"
    """Kernels do not run, or far from how they could."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the report."""

    area: str
    name: str
    value: str
    """What was found, in a few words."""
    status: Status = Status.OK
    why: str = ""
    """For what is not OK: what it means."""
    fix: str = ""
    """For what is not OK: the command that fixes it, to be pasted into a shell; "" where none
    can."""
    data: Mapping[str, Any] = field(default_factory=dict)
    """The same for programs: numbers with their unit in the name."""

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"status": self.status.value, "data": dict(self.data)}


def read_text(path: Path) -> str:
    """A small system file, stripped; "" where there is none or it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""

"""What new memory costs: page faults of fresh outputs, and the allocator setting that ends them."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from kernel_pytorch.cli.doctor import page_faults
from kernel_pytorch.cli.doctor.finding import Finding, Status, read_text

__all__ = ["Cost", "check", "measure", "settings"]

_KEEP = "glibc.malloc.trim_threshold=8589934592"
_SETTINGS = {
    # Blocks come from the heap and stay there when freed. Which of both a C library heeds for
    # large blocks depends on its version, so both are tried.
    "keep freed memory": f"glibc.malloc.mmap_threshold=4294967296:{_KEEP}",
    "keep freed memory, no mmap": f"glibc.malloc.mmap_max=0:{_KEEP}",
    # Faults of 2 MB instead of 4 KB; freed memory still goes back to the system.
    "huge pages": "glibc.malloc.hugetlb=1",
}
_RETAINS = "The process then keeps memory that it frees: its peak stays its size."
_WORTH = 1.5
"""A fresh output that costs this many times a reused one is worth a setting."""


class Cost(NamedTuple):
    """What writing one output costs, in a process of its own (medians)."""

    fresh_seconds: float
    """Into newly allocated memory, allocation and release included."""
    reused_seconds: float
    """Into memory that was written before."""
    faults: float
    """Page faults an output when fresh."""

    @property
    def removes(self) -> bool:
        """Whether fresh outputs cost about what reused ones do."""
        return self.fresh_seconds < _WORTH * self.reused_seconds


def settings(environment: Mapping[str, str]) -> dict[str, str]:
    """The settings worth trying, as values of ``GLIBC_TUNABLES`` on top of those already set."""
    given = environment.get("GLIBC_TUNABLES", "")
    return {name: f"{given}:{value}".lstrip(":") for name, value in _SETTINGS.items()}


def measure(environment: Mapping[str, str]) -> Cost:
    """The cost in a fresh interpreter under ``environment``. Raises OSError if none starts."""
    # Allocator settings are read when a process starts, so each needs one of its own.
    result = subprocess.run(
        [sys.executable, "-I", page_faults.__file__],
        env=dict(environment),
        capture_output=True,
        text=True,
        timeout=120,
    )
    if result.returncode:
        raise OSError(f"the measurement failed: {result.stderr.strip()[-200:]}")
    return Cost(*json.loads(result.stdout))


def check(say: Callable[[str], None] = lambda _: None) -> list[Finding]:
    """Measures fresh against reused outputs, and the settings that may help."""
    huge = read_text(Path("/sys/kernel/mm/transparent_hugepage/enabled"))
    mode = huge.partition("[")[2].partition("]")[0] or "not available"
    size = f"{page_faults.SIZE >> 20} MB output"
    name = f"fresh {size}"
    say(f"measuring the cost of a {name}")
    try:
        now = measure(os.environ)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        return [
            Finding(
                area="memory",
                name=name,
                value="not measured",
                status=Status.ADVICE,
                why=str(error),
                fix=f"{sys.executable} -I {page_faults.__file__}",
            )
        ]
    data: dict[str, Any] = {
        "bytes": page_faults.SIZE,
        "allocator": _allocator(),
        "transparent_huge_pages": mode,
        "now": now._asdict(),
    }
    value = f"{_cost_text(now)}; {data['allocator']}, transparent huge pages: {mode}"
    found = Finding(area="memory", name=name, value=value, data=data)
    if now.removes:
        return [found]
    tried: dict[str, Cost] = {}
    for setting, tunables in settings(os.environ).items():
        say(f"measuring it with the setting: {setting}")
        tried[tunables] = measure({**os.environ, "GLIBC_TUNABLES": tunables})
    data["tried"] = {tunables: cost._asdict() for tunables, cost in tried.items()}
    best = min(tried, key=lambda t: tried[t].fresh_seconds)
    # The first one is the one to name unless another is clearly better.
    first = next(iter(tried))
    if tried[first].fresh_seconds < 1.2 * tried[best].fresh_seconds:
        best = first
    why = (
        f"Page faults of new memory cost {(now.fresh_seconds - now.reused_seconds) * 1e3:.1f} ms "
        f"for each {size} ({now.faults:.0f} faults)."
    )
    if tried[best].fresh_seconds > 0.8 * now.fresh_seconds:
        lines = "; ".join(f"{t}: {_cost_text(c)}" for t, c in tried.items())
        why += f" No setting of this C library helped ({lines}): use out= where you can."
        return [_with(found, why, "")]
    data["best"] = best
    why += f" With this setting, measured just now: {_cost_text(tried[best])}."
    if "trim_threshold" in best:
        why += f" {_RETAINS}"
    return [_with(found, why, f"export GLIBC_TUNABLES={best}")]


def _with(found: Finding, why: str, fix: str) -> Finding:
    return Finding(
        area=found.area,
        name=found.name,
        value=found.value,
        status=Status.ADVICE,
        why=why,
        fix=fix,
        data=found.data,
    )


def _cost_text(cost: Cost) -> str:
    return (
        f"{cost.fresh_seconds * 1e3:.1f} ms, reused {cost.reused_seconds * 1e3:.1f} ms, "
        f"{cost.faults:.0f} page faults"
    )


def _allocator() -> str:
    """Whose ``malloc`` this process uses, from the libraries it has loaded."""
    maps = read_text(Path("/proc/self/maps"))
    for library in ("jemalloc", "tcmalloc", "mimalloc"):
        if f"lib{library}" in maps:
            return library
    library, version = platform.libc_ver()
    return f"{library or 'C library'} {version} malloc".replace("  ", " ")

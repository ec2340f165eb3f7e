"""Main memory as this process may use it: the machine's, or its control group's if less."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["available_memory", "total_memory"]

_MEMINFO = Path("/proc/meminfo")
# Version 2 and version 1: (limit, usage, statistics, the reclaimable file cache among those).
_GROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        "/sys/fs/cgroup/memory/memory.stat",
    ),
)


def _number(path: str) -> int | None:
    try:
        text = Path(path).read_text("ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None  # "max" is no limit


def _reclaimable(path: str) -> int:
    """File pages that the kernel drops before it refuses an allocation."""
    try:
        lines = Path(path).read_text("ascii").splitlines()
    except OSError:
        return 0
    found = dict(line.split()[:2] for line in lines if " " in line)
    return int(found.get("inactive_file", 0)) + int(found.get("active_file", 0))


def _meminfo(name: str) -> int | None:
    try:
        lines = _MEMINFO.read_text("ascii").splitlines()
    except OSError:
        return None
    for line in lines:
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0]) * 1024
    return None


def _pages(name: str) -> int:
    try:
        return os.sysconf(name) * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return 0


def total_memory() -> int:
    """Bytes in all; 0 where the system does not tell."""
    total = _meminfo("MemTotal") or _pages("SC_PHYS_PAGES")
    limits = [n for limit, _, _ in _GROUPS if (n := _number(limit)) is not None]
    return min([total, *limits]) if total else 0


def available_memory() -> int:
    """Bytes that could be allocated now without swapping; 0 where the system does not tell."""
    available = _meminfo("MemAvailable") or _pages("SC_AVPHYS_PAGES")
    for limit_path, usage_path, stat in _GROUPS:
        limit, usage = _number(limit_path), _number(usage_path)
        if limit is not None and usage is not None:
            available = min(available, max(0, limit - usage + _reclaimable(stat)))
    return available

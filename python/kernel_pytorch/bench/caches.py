"""The size of the caches that benchmark inputs must exceed."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["last_level_bytes"]

_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def last_level_bytes(cpus: set[int] | None = None, root: Path = Path("/")) -> int:
    """Bytes of all last-level caches that ``cpus`` (default: this process's) reach; 0 where the
    system does not tell.

    From the kernel's topology: ``sysconf`` answers for the whole socket on some CPUs, of which a
    process may reach one part.
    """
    found: dict[tuple[int, str], int] = {}
    for cpu in os.sched_getaffinity(0) if cpus is None else cpus:
        for index in (root / f"sys/devices/system/cpu/cpu{cpu}/cache").glob("index*"):
            try:
                kind = (index / "type").read_text().strip()
                level = int((index / "level").read_text())
                size = (index / "size").read_text().strip()
                sharers = (index / "shared_cpu_list").read_text().strip()
                if kind != "Instruction":
                    found[level, sharers] = int(size[:-1]) * _UNITS[size[-1]]
            except (OSError, ValueError, KeyError, IndexError):
                continue
    last = max((level for level, _ in found), default=0)
    return sum(size for (level, _), size in found.items() if level == last)

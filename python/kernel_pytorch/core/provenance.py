"""Where a number comes from: the machine, the versions, the commit; how busy the machine was."""

from __future__ import annotations

import functools
import os
import pathlib
import platform
import subprocess
import time

import torch

from kernel_pytorch._version import __version__

__all__ = ["Business", "commit", "cpu_name", "machine", "versions"]


def cpu_name() -> str:
    """The processor's model name, or its architecture where the system does not tell."""
    keys: dict[str, str] = {}
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                key, _, value = line.partition(":")
                keys.setdefault(key.strip(), value.strip())
    except OSError:
        pass
    return keys.get("model name") or platform.processor() or platform.machine()


@functools.cache
def commit() -> str:
    """The checkout's commit, with "+" after local changes; "" outside a checkout."""
    # The real path: under Bazel the sources are links into the checkout.
    for folder in pathlib.Path(__file__).resolve().parents:
        if (folder / ".git").exists():
            break
    else:
        return ""

    def git(*args: str) -> str:
        return subprocess.run(
            ["git", "-C", str(folder), *args], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def machine(device: torch.device) -> dict[str, str]:
    """What a time on ``device`` depends on; runs are comparable where all of it is equal."""
    found = {
        "cpu": cpu_name(),
        "cores": str(len(os.sched_getaffinity(0))),
        "threads": str(torch.get_num_threads()),
        "isa_limit": os.environ.get("KPT_ISA", ""),
        "system": platform.system(),
    }
    if device.type not in ("cpu", "meta"):
        module = torch.get_device_module(device)
        name = getattr(module, "get_device_name", None)
        found["device"] = str(name(device)) if name is not None else device.type
    return found


def versions() -> dict[str, str]:
    """Versions of what ran."""
    return {
        "kernel_pytorch": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


class Business:
    """How much of the machine other processes use from now on."""

    def __init__(self) -> None:
        self._start = self._read()

    @staticmethod
    def _read() -> tuple[float, float, float] | None:
        """Seconds: the clock, all processes' on all CPUs, this process's."""
        try:
            with open("/proc/stat", encoding="ascii") as file:
                # user nice system idle iowait irq softirq steal
                ticks = [int(n) for n in file.readline().split()[1:9]]
        except (OSError, ValueError):
            return None
        own = os.times()
        busy = (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")
        return time.perf_counter(), busy, own.user + own.system

    def share(self) -> float | None:
        """Part of the machine's CPUs that others used since this was made, 0 to 1; None where the
        system does not tell."""
        now = self._read()
        if now is None or self._start is None:
            return None
        clock, every, own = (b - a for a, b in zip(self._start, now))
        available = clock * (os.cpu_count() or 1)
        return min(1.0, max(0.0, every - own) / available) if available > 0 else None

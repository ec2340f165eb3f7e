"""tools/gpu/verify: proves the kernels for NVIDIA GPUs on a machine that has one.

    tools/gpu/verify [--minutes 10] [--results FOLDER] [--carry FOLDER] [--build] [--only KIND/OP]

It runs units (plan.py), most important first, each in a process that may crash without taking the
rest along; writes what each found to the results' file at once (records.py); and begins nothing
when the time is used up. Called again, it goes on where it stopped. Needed: Python 3.10, PyTorch
for CUDA, and the folder build/gpu that tools/gpu/prepare makes on any machine: the module and the
packages it imports. With --build the module is compiled here, by nvcc and g++ alone.

Exit status: 0 all passed, 1 something failed, 2 wrong usage or no modules, 3 no GPU, 4 time ran out
first. Standard library only.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import pathlib
import selectors
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from tools.gpu import plan, records

__all__ = ["Worker", "main", "run_units", "table"]

ROOT = pathlib.Path(__file__).resolve().parents[2]
PASSED, FAILED, USAGE, NO_GPU, OUT_OF_TIME = 0, 1, 2, 3, 4
RESULT = "KPT-RESULT "  # begins the line of a worker's answer


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


class Worker:
    """A process that runs units one after another; replaced when it dies or hangs."""

    def __init__(self, command: Sequence[str], environment: dict[str, str]) -> None:
        self._command, self._environment = list(command), environment
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, key: str, limit_s: float) -> dict[str, Any]:
        """The outcome of a unit: its status, and "data" or "error"."""
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                self._command,
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                cwd=ROOT,
            )
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(f"{key}\n".encode())
            process.stdin.flush()
        except BrokenPipeError:
            return self._lost("crashed", "the worker ended before it began")
        deadline = time.monotonic() + limit_s
        text = b""
        os.set_blocking(process.stdout.fileno(), False)
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while True:
                left = deadline - time.monotonic()
                if left <= 0:
                    return self._lost("timeout", f"stopped after {limit_s:.0f} s")
                if not selector.select(left):
                    continue
                part = process.stdout.read()
                if part == b"":
                    return self._lost("crashed", f"the worker ended with {process.wait()}")
                text += part or b""
                for line in text.decode(errors="replace").split("\n")[:-1]:
                    if line.startswith(RESULT):
                        outcome: dict[str, Any] = json.loads(line.removeprefix(RESULT))
                        if outcome.pop("restart", False):
                            self.close()
                        return outcome

    def _lost(self, status: str, error: str) -> dict[str, Any]:
        self.close()
        return {"status": status, "error": error}

    def close(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                assert pipe is not None
                with contextlib.suppress(OSError):
                    pipe.close()
            self._process = None


def run_units(
    units: Sequence[plan.Unit], results: records.Results, worker: Worker, seconds: float
) -> bool:
    """Runs what is not done yet, for at most `seconds`; whether it came to the end."""
    deadline = time.monotonic() + seconds
    for unit in units:
        if results.is_done(unit.key):
            continue
        left = deadline - time.monotonic()
        if left < 1:
            return False
        print(f"{unit.key} ...", end=" ", flush=True)
        start, limit = time.monotonic(), min(unit.limit_s, left)
        outcome = worker.run(unit.key, limit)
        if outcome["status"] == "timeout" and limit < unit.limit_s:
            print("time ran out")
            return False
        outcome["seconds"] = round(time.monotonic() - start, 2)
        outcome["ended"] = _now()
        results.put(unit.key, outcome)
        print(outcome["status"], outcome.get("error", outcome.get("why", "")), flush=True)
    return True


def _ratio(row: dict[str, Any]) -> str:
    return "-" if row["ratio"] is None else f"{row['ratio']:.2f}x"


def table(data: dict[str, Any]) -> str:
    """What was found, short: counts by kind, then each benchmark row."""
    lines = [f"{data['device']['name']}, commit {data['commit'][:12]}"]
    kinds: dict[str, dict[str, int]] = {}
    for key, unit in data["units"].items():
        counts = kinds.setdefault(key.partition("/")[0], {})
        counts[unit["status"]] = counts.get(unit["status"], 0) + 1
    for kind, counts in kinds.items():
        lines.append(f"  {kind:<10}" + ", ".join(f"{n} {s}" for s, n in sorted(counts.items())))
    for key, unit in sorted(data["units"].items()):
        if unit["status"] not in ("passed", "skipped"):
            lines.append(f"  {key}: {unit['status']}: {unit.get('error', '')[:300]}")
    limits = data["units"].get("limits/device", {}).get("data", {})
    for name, rate in limits.items():
        lines.append(f"  limit {name}: {rate / 1e12:.2f} T/s")
    for key, unit in sorted(data["units"].items()):
        if key.startswith("bench/"):
            for row in unit.get("data", {}).get("rows", []):
                lines.append(
                    f"  {row['op']:<18}{row['name']:<22}{row['dtype']:<10}"
                    f"{row['seconds'] * 1e6:9.1f} us {row['rate'] / 1e12:7.2f} T/s"
                    f" {100 * row['share']:4.0f}% of limit, {_ratio(row)} {row['peer']}"
                )
    return "\n".join(lines)


def _commit(carry: pathlib.Path) -> str:
    """Of the sources: git's, or what the carried folder says."""
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        run = ["git", "-C", str(ROOT)]
        head = subprocess.run([*run, "rev-parse", "HEAD"], check=True, capture_output=True)
        changed = subprocess.run([*run, "status", "--porcelain", "-uno"], capture_output=True)
        return head.stdout.decode().strip() + ("+" if changed.stdout.strip() else "")
    with contextlib.suppress(OSError):
        return (carry / "commit").read_text(encoding="utf-8").strip()
    return "unknown"


def _environment(carry: pathlib.Path) -> dict[str, str]:
    """The repository's Python first, then what was carried."""
    paths = [ROOT / "python", ROOT, carry / "site-packages"]
    known = os.environ.get("PYTHONPATH", "")
    joined = os.pathsep.join([*map(str, paths), *([known] if known else [])])
    return {**os.environ, "PYTHONPATH": joined, "PYTHONDONTWRITEBYTECODE": "1"}


def _install_modules(carry: pathlib.Path) -> str:
    """Puts the carried module where the sources look for it; what is missing, in words."""
    target = ROOT / "python/kernel_pytorch/_native"
    module = "cuda.abi3.so"
    if (carry / "native" / module).exists():
        shutil.copy(carry / "native" / module, target / module)
    if (target / module).exists():
        return ""
    return f"no {module}: run tools/gpu/prepare where Bazel runs and carry {carry}, or give --build"


def main(argv: Sequence[str]) -> int:
    """The command; see the module's text."""
    parser = argparse.ArgumentParser(prog="tools/gpu/verify", description=__doc__.split("\n\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0, help="begin nothing later")
    parser.add_argument("--results", type=pathlib.Path, default=ROOT / "tools/gpu/results")
    parser.add_argument("--carry", type=pathlib.Path, default=ROOT / "build/gpu")
    parser.add_argument("--build", action="store_true", help="compile the modules here")
    parser.add_argument("--only", action="append", help="a unit's key or kind (repeatable)")
    options = parser.parse_args(argv)
    began = time.monotonic()

    environment = _environment(options.carry)
    worker = Worker([sys.executable, "-m", "tools.gpu.worker"], environment)
    try:
        # PyTorch's answer: the modules may still have to be built for what it finds.
        found = worker.run("device/here", 120)
        if found["status"] != "passed":
            print(f"tools/gpu/verify: no GPU to verify on: {found['error']}. Nothing was run.")
            return NO_GPU
        device = found["data"]
        if options.build:
            from tools.gpu import build

            build.build(options.carry, f"{device['major']}{device['minor']}")
        if problem := _install_modules(options.carry):
            print(f"tools/gpu/verify: {problem}")
            return USAGE
        declared = worker.run("ops/here", 120)
        if declared["status"] != "passed":
            print(f"tools/gpu/verify: the package does not load: {declared['error']}")
            return USAGE
        results = records.Results(options.results, device, _commit(options.carry))
        runs = records.newest_runs(options.results).get("nvidia", {})
        units = plan.plan(declared["data"]["ops"], {op: run["date"] for op, run in runs.items()})
        if options.only:
            units = [u for u in units if u.key in options.only or u.kind in options.only]
        left = 60 * options.minutes - (time.monotonic() - began)
        finished = run_units(units, results, worker, left)
    finally:
        worker.close()
    print(table(results.data))
    print(f"written to {results.path}")
    wanted = {u.key for u in units}
    states = {u["status"] for key, u in results.data["units"].items() if key in wanted}
    if states - {"passed", "skipped"}:
        return FAILED
    return PASSED if finished else OUT_OF_TIME

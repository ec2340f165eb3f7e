"""What tools/gpu/verify found: one JSON file a device and commit, written after every unit.

The file under tools/gpu/results is the only source of what the project says of runs on GPUs.
Standard library only: the machine with the GPU may have little else.
"""

from __future__ import annotations

import json
import os
import pathlib
import re
from typing import Any

__all__ = ["DONE", "SCHEMA", "Results", "newest_runs", "read_all"]

SCHEMA = 1
DONE = ("passed", "failed", "skipped")
"""States that a later run of the same commit does not try again; "crashed", "timeout" it does."""


class Results:
    """The file of one device and commit; made, or gone on with where it exists."""

    def __init__(self, folder: pathlib.Path, device: dict[str, Any], commit: str) -> None:
        slug = re.sub(r"[^a-z0-9]+", "_", str(device["name"]).lower()).strip("_")
        self.path = folder / f"{slug}_{re.sub(r'[^0-9a-z]', '', commit)[:12]}.json"
        self.data: dict[str, Any] = {
            "schema": SCHEMA,
            "backend": "nvidia",
            "commit": commit,
            "device": device,
            "units": {},
        }
        if self.path.exists():
            found = json.loads(self.path.read_text(encoding="utf-8"))
            if found.get("schema") == SCHEMA and found.get("commit") == commit:
                self.data["units"] = found["units"]
        self._write()

    def is_done(self, key: str) -> bool:
        return self.data["units"].get(key, {}).get("status") in DONE

    def put(self, key: str, entry: dict[str, Any]) -> None:
        """Keeps the outcome of a unit; on disk when this returns."""
        self.data["units"][key] = entry
        self._write()

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = self.path.with_suffix(".new")
        with new.open("w", encoding="utf-8") as file:
            json.dump(self.data, file, indent=1, sort_keys=True)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        new.replace(self.path)


def read_all(folder: pathlib.Path) -> list[dict[str, Any]]:
    """Every record, the one with the latest unit first."""
    found = [json.loads(p.read_text(encoding="utf-8")) for p in sorted(folder.glob("*.json"))]
    return sorted((r for r in found if r["units"]), key=_latest, reverse=True)


def _latest(record: dict[str, Any]) -> str:
    return max(unit["ended"] for unit in record["units"].values())


def newest_runs(folder: pathlib.Path) -> dict[str, dict[str, dict[str, str]]]:
    """backend -> operator -> the newest record in which its contract passed (gpu_runs.json)."""
    runs: dict[str, dict[str, dict[str, str]]] = {}
    for record in read_all(folder):
        ops = runs.setdefault(record["backend"], {})
        for key, unit in record["units"].items():
            kind, _, op = key.partition("/")
            if kind == "contract" and unit["status"] == "passed":
                ops.setdefault(
                    op,
                    {
                        "device": record["device"]["name"],
                        "commit": record["commit"],
                        "date": unit["ended"][:10],
                    },
                )
    return runs

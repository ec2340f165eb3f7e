"""How often an unchanged model is flagged, and how often one with 10% more work is found.

    tools/bazel run //tools/bench:false_alarms -- --output=$PWD/docs/records/regressions.json

Measures two models 200 times each and judges every run as the performance tracker does: 10 equal
layers, again and again the same, and 11 of them, which is 10% more work. Each run is taken in turn
with a third model, which stands for the deployed one; --nopaired takes the fixed reference instead
and wants a machine that does nothing else. The record holds all samples; a test judges them again.
"""

import dataclasses
import json
import pathlib
import tempfile
from collections.abc import Sequence
from typing import Any

import torch
from absl import app, flags, logging

from kernel_pytorch.core.performance_store import PerformanceMetrics
from kernel_pytorch.core.performance_tracker import PerformanceTracker
from kernel_pytorch.core.regression import regressions, too_busy

_OUTPUT = flags.DEFINE_string("output", None, "The record to write.", required=True)
_REPEATS = flags.DEFINE_integer("repeats", 200, "Runs of each model.", lower_bound=2)
_SAMPLES = flags.DEFINE_integer("samples", 25, "Samples of a run.", lower_bound=10)
_PAIRED = flags.DEFINE_bool("paired", True, "Measure in turn with a third model.")
_THREADS = flags.DEFINE_integer("threads", 1, "Of PyTorch.", lower_bound=1)

_BASELINE_RUNS = 20


def model(layers: int) -> torch.nn.Module:
    """``layers`` times the same work."""
    torch.manual_seed(0)
    parts = [torch.nn.Sequential(torch.nn.Linear(256, 256), torch.nn.GELU()) for _ in range(layers)]
    return torch.nn.Sequential(*parts).eval()


def measure(repeats: int, samples: int, paired: bool) -> dict[str, list[PerformanceMetrics]]:
    """Runs of both models, in turn."""
    inputs = torch.randn(64, 256)
    models = {"unchanged": model(10), "slower": model(11)}
    deployed = model(10) if paired else None
    runs: dict[str, list[PerformanceMetrics]] = {name: [] for name in models}
    with tempfile.TemporaryDirectory() as folder:
        tracker = PerformanceTracker(pathlib.Path(folder) / "runs.sqlite3")
        for _ in range(repeats):
            for name, measured in models.items():
                runs[name].append(
                    tracker.record_performance(
                        measured,
                        inputs,
                        name,
                        num_iterations=samples,
                        warmup_iterations=3,
                        against=deployed,
                    )
                )
    return runs


def judged(runs: dict[str, list[PerformanceMetrics]]) -> dict[str, Any]:
    """Every run after the first against the runs before it, as the tracker takes them: the first
    ones of the unchanged model, at most 20."""
    counts: dict[str, Any] = {"too_busy": 0}
    for name, found in runs.items():
        flagged = judgements = 0
        for i in range(1, len(found)):
            steady = [r for r in runs["unchanged"][:i] if not too_busy(r)][:_BASELINE_RUNS]
            if too_busy(found[i]) or not steady:
                counts["too_busy"] += 1
                continue
            judgements += 1
            flagged += bool(regressions(steady, found[i]))
        counts[name] = {"judged": judgements, "flagged": flagged}
    return counts


def pooled(runs: dict[str, list[PerformanceMetrics]], count: int) -> dict[str, Any]:
    """As if every ``count`` runs, one after the other, were one with all their samples."""
    return {
        name: [
            dataclasses.replace(
                found[i],
                samples=sum((r.samples for r in found[i : i + count]), ()),
                reference=sum((r.reference for r in found[i : i + count]), ()),
            )
            for i in range(0, len(found) - count + 1, count)
        ]
        for name, found in runs.items()
    }


def to_json(runs: dict[str, list[PerformanceMetrics]]) -> dict[str, Any]:
    """The record: nanoseconds, and what is common to all runs once."""
    first = runs["unchanged"][0]

    def short(seconds: Sequence[float]) -> list[int]:
        return [round(s * 1e9) for s in seconds]

    return {
        "machine": first.machine,
        "versions": first.versions,
        "commit": first.commit,
        "date": first.timestamp,
        "reference": first.reference_name,
        "judged": judged(runs),
        "judged_with_four_times_the_samples": judged(pooled(runs, 4)),
        "runs": {
            name: [
                {
                    "busy": None if r.busy is None else round(r.busy, 3),
                    "samples_ns": short(r.samples),
                    "reference_ns": short(r.reference),
                }
                for r in found
            ]
            for name, found in runs.items()
        },
    }


def from_json(record: dict[str, Any]) -> dict[str, list[PerformanceMetrics]]:
    """The runs of a record."""

    def run(name: str, entry: dict[str, Any]) -> PerformanceMetrics:
        samples = tuple(n * 1e-9 for n in entry["samples_ns"])
        middle = sorted(samples)[len(samples) // 2]
        return PerformanceMetrics(
            model_name=name,
            model_hash=name,
            timestamp=record["date"],
            latency_ms=1e3 * middle,
            throughput=64 / middle,
            memory_mb=None,
            backend="cpu",
            optimization_level="conservative",
            device="cpu",
            batch_size=64,
            samples=samples,
            reference=tuple(n * 1e-9 for n in entry["reference_ns"]),
            reference_name=record["reference"],
            busy=entry["busy"],
        )

    return {name: [run(name, e) for e in found] for name, found in record["runs"].items()}


def main(argv: Sequence[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError("takes no arguments")
    torch.set_num_threads(_THREADS.value)
    runs = measure(_REPEATS.value, _SAMPLES.value, _PAIRED.value)
    # Memory is exact: it would say that 11 layers are more than 10, and times are the question.
    timed = {n: [dataclasses.replace(r, memory_mb=None) for r in f] for n, f in runs.items()}
    record = to_json(timed)
    pathlib.Path(_OUTPUT.value).write_text(json.dumps(record) + "\n", encoding="utf-8")
    for name in ("judged", "judged_with_four_times_the_samples"):
        logging.info("%s: %s", name, record[name])


if __name__ == "__main__":
    app.run(main)

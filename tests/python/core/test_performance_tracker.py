"""Runs of models: what is recorded, baselines, regressions, history."""

import dataclasses
import os
import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn

from kernel_pytorch.core import performance_tracker as module
from kernel_pytorch.core.performance_tracker import (
    MetricType,
    PerformanceTracker,
    RegressionSeverity,
    model_fingerprint,
)


def mlp(width=16):
    return nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 2)).eval()


X = torch.ones(4, 8)


@pytest.fixture
def tracker(tmp_path):
    return PerformanceTracker(tmp_path / "runs.sqlite3")


def record(tracker, model, **options):
    given = {"num_iterations": 12, "warmup_iterations": 1} | options
    return tracker.record_performance(model, X, "mlp", **given)


def changed(run, **factors):
    """The same run with some of its figures multiplied, as a point without samples."""
    values = {name: getattr(run, name) * factor for name, factor in factors.items()}
    return dataclasses.replace(run, samples=(), reference=(), run_id=0, **values)


def test_a_run_holds_what_it_was_made_of(tracker):
    model = mlp()
    run = record(tracker, model, accuracy=0.5, additional_metrics={"epoch": 3})
    assert run.model_hash == tracker._compute_model_hash(model) in tracker.metrics_history
    assert len(run.samples) == len(run.reference) == 12 and min(run.samples) > 0
    assert run.latency_ms == pytest.approx(1e3 * sorted(run.samples)[6], rel=0.5)
    assert run.throughput == pytest.approx(4 / (run.latency_ms * 1e-3))
    assert run.batch_size == 4 and run.device == "cpu" and run.accuracy == 0.5
    assert run.versions["torch"] == torch.__version__ and run.machine["cpu"]
    assert run.busy is None or 0 <= run.busy <= 1
    assert tracker.get_performance_history(model) == [run]


def test_memory_is_counted(tracker):
    """Weights, and what lives at once in one call: here the widest result and its input."""
    model = mlp(width=1024)
    weights = sum(p.nbytes for p in model.parameters())
    _, _, memory = tracker.benchmark_model(model, X, num_iterations=1, warmup_iterations=0)
    assert memory * 2**20 == weights + 2 * 4 * 1024 * 4


@pytest.mark.parametrize("inputs", [X, (X,), {"input": X}], ids=["tensor", "tuple", "mapping"])
def test_kinds_of_inputs(tracker, inputs):
    latency, throughput, _ = tracker.benchmark_model(mlp(), inputs, 2, 0)
    assert throughput == pytest.approx(4e3 / latency)


def test_bad_arguments(tracker):
    with pytest.raises(ValueError, match="'num_iterations' must be at least 1, got 0"):
        tracker.benchmark_model(mlp(), X, num_iterations=0)
    with pytest.raises(ValueError, match="'warmup_iterations' must not be negative"):
        tracker.benchmark_model(mlp(), X, warmup_iterations=-1)
    with pytest.raises(ValueError, match="holds no run 0"):
        tracker.set_baseline(changed(record(tracker, mlp())))


_PRINT = """
import torch
from torch import nn
from kernel_pytorch.core.performance_tracker import model_fingerprint
print(model_fingerprint(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))))
"""


def test_the_fingerprint_is_the_same_in_every_process():
    env = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    found = {
        subprocess.run(
            [sys.executable, "-c", _PRINT],
            env=env | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert found == {model_fingerprint(mlp())}


def test_the_fingerprint_is_of_the_structure():
    assert model_fingerprint(mlp()) == model_fingerprint(mlp())  # weights are others
    others = [
        mlp(17),
        mlp().double(),
        nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 2)),
        nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2), nn.Dropout(0.1)),
        nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2), nn.Dropout(0.2)),
    ]
    assert len({model_fingerprint(m) for m in (mlp(), *others)}) == 6


def test_baseline(tracker):
    model = mlp()
    assert tracker.get_baseline(model) is None
    first, second = record(tracker, model), record(tracker, model)
    nvidia = record(tracker, model, backend="nvidia", optimization_level="aggressive")
    assert tracker.get_baseline(model) == first
    assert tracker.get_baseline(model, "nvidia") == nvidia
    assert tracker.get_baseline(model, "cpu", "aggressive") is None
    tracker.set_baseline(second)
    assert tracker.get_baseline(model) == second
    assert tracker.get_baseline(mlp(17)) is None


@pytest.mark.parametrize(
    ("figure", "factor", "metric", "severity"),
    [
        ("latency_ms", 1.05, MetricType.LATENCY, RegressionSeverity.MINOR),
        ("latency_ms", 1.10, MetricType.LATENCY, RegressionSeverity.MODERATE),
        ("latency_ms", 1.20, MetricType.LATENCY, RegressionSeverity.MODERATE),
        ("latency_ms", 1.50, MetricType.LATENCY, RegressionSeverity.SEVERE),
        ("throughput", 0.70, MetricType.THROUGHPUT, RegressionSeverity.SEVERE),
        ("memory_mb", 1.40, MetricType.MEMORY, RegressionSeverity.SEVERE),
        ("accuracy", 0.85, MetricType.ACCURACY, RegressionSeverity.MODERATE),
        ("latency_ms", 1.001, None, None),
        ("latency_ms", 0.5, None, None),
        ("throughput", 1.5, None, None),
        ("memory_mb", 1.09, None, None),
        ("memory_mb", 0.5, None, None),
    ],
)
def test_severities(tracker, figure, factor, metric, severity):
    model = mlp()
    base = record(tracker, model, accuracy=0.9)
    found = tracker.detect_regression(model, changed(base, **{figure: factor}))
    if metric is None:
        assert found == []
        return
    (result,) = found
    assert (result.metric_type, result.severity) == (metric, severity)
    assert result.has_regression
    assert result.change_percent == pytest.approx(100 * (factor - 1))
    assert result.message.startswith(f"{severity.value} regression of {metric.name.lower()}")
    assert result.to_dict()["severity"] == severity.value


def with_samples(run, samples, reference=None, **changes):
    return dataclasses.replace(
        run,
        samples=tuple(samples),
        reference=tuple(reference or [1e-3] * len(samples)),
        latency_ms=1e3 * sorted(samples)[len(samples) // 2],
        busy=0.0,
        run_id=0,
        **changes,
    )


def _noise(centre, spread, count=40):
    """Values around a centre, the same ones every time."""
    return [centre * (1 + spread * ((7 * i) % count - count / 2) / count) for i in range(count)]


def latency_results(tracker, current, baseline):
    found = tracker.detect_regression(mlp(), current, baseline)
    return [r.severity for r in found if r.metric_type is MetricType.LATENCY]


def test_the_interval_decides_and_not_the_point(tracker):
    run = record(tracker, mlp())
    base = with_samples(run, _noise(1e-3, 0.4))
    # 5% more at the median, but the intervals meet; the same 5% without noise is one.
    assert latency_results(tracker, with_samples(run, _noise(1.05e-3, 0.4)), base) == []
    calm = with_samples(run, _noise(1e-3, 0.01))
    five = latency_results(tracker, with_samples(run, _noise(1.05e-3, 0.01)), calm)
    assert five == [RegressionSeverity.MINOR]
    half = latency_results(tracker, with_samples(run, _noise(1.5e-3, 0.01)), calm)
    assert half == [RegressionSeverity.SEVERE]


def test_a_slower_machine_is_no_regression(tracker):
    run = record(tracker, mlp())
    base = with_samples(run, _noise(1e-3, 0.01))
    slow_machine = with_samples(run, _noise(2e-3, 0.01), [2e-3] * 40)
    assert latency_results(tracker, slow_machine, base) == []
    disturbed_reference = with_samples(run, _noise(1e-3, 0.01), [5e-4] * 40)
    assert latency_results(tracker, disturbed_reference, base) == []


def test_a_busy_machine_is_not_judged(tracker):
    run = record(tracker, mlp())
    base = with_samples(run, _noise(1e-3, 0.01))
    busy = dataclasses.replace(with_samples(run, _noise(2e-3, 0.01)), busy=0.6)
    with pytest.warns(UserWarning, match="not judged: measure again when it is idle"):
        assert latency_results(tracker, busy, base) == []


def test_runs_in_turn_with_a_model_are_judged_on_a_busy_machine(tracker):
    model, deployed = mlp(), mlp()
    runs = [record(tracker, model, against=deployed) for _ in range(2)]
    assert {r.reference_name for r in runs} == {f"model {model_fingerprint(deployed)}"}
    base = dataclasses.replace(with_samples(runs[0], _noise(1e-3, 0.01)), busy=0.9)
    # The machine became faster, and the model slower than the deployed one.
    slower = with_samples(runs[1], _noise(1e-3, 0.01), [5e-4] * 40)
    assert latency_results(tracker, slower, base) == [RegressionSeverity.SEVERE]
    same = with_samples(runs[1], _noise(2e-3, 0.01), [2e-3] * 40)
    assert latency_results(tracker, same, base) == []


def test_repeats_of_the_baseline_say_how_much_runs_differ(tracker, monkeypatch):
    model = mlp()
    run = dataclasses.replace(record(tracker, model), commit="abc")
    tracker.clear_history()
    for centre in (1e-3, 1.08e-3):
        tracker.store.add(with_samples(run, _noise(centre, 0.01)))
    current = with_samples(run, _noise(1.07e-3, 0.01))
    assert tracker.detect_regression(model, current) == []
    assert tracker.detect_regression(model, dataclasses.replace(current, commit="new")) == []
    slower = with_samples(run, _noise(1.2e-3, 0.01), commit="new")
    assert tracker.detect_regression(model, slower)
    # A run of another commit is no repeat of the baseline: it may be slower for good.
    tracker.store.add(slower)
    assert tracker.detect_regression(model, slower)
    # Neither is another machine's.
    assert tracker.detect_regression(model, dataclasses.replace(slower, machine={"cpu": "y"})) == []


def test_warning(tracker):
    model = mlp()
    base = record(tracker, model)
    with pytest.warns(UserWarning, match="mlp: severe regression of latency: .*, \\+60.0%"):
        tracker.warn_if_regression(model, changed(base, latency_ms=1.6))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tracker.warn_if_regression(model, changed(base))


def test_history(tracker):
    model, other = mlp(), mlp(17)
    runs = [record(tracker, model, num_iterations=2) for _ in range(3)]
    record(tracker, other, num_iterations=2)
    assert tracker.get_performance_history(model, limit=2) == [runs[2], runs[1]]
    page = tracker.to_html(model)
    assert page.count("<circle") == 3 and page.count("<h2>") == 1 and "https://" not in page
    assert tracker.to_html().count("<h2>") == 2
    tracker.clear_history(model)
    assert tracker.get_performance_history(model) == [] and len(tracker.metrics_history) == 1
    tracker.clear_history()
    assert tracker.metrics_history == {} and "No runs" in tracker.to_html()


def test_functions_use_the_default_store(monkeypatch, tmp_path):
    monkeypatch.setenv("KPT_PERFORMANCE_STORE", str(tmp_path / "x.sqlite3"))
    monkeypatch.setattr(module, "_tracker", None)
    model = mlp()
    run = module.track_performance(model, X, "mlp", num_iterations=2)
    assert module.get_performance_tracker().storage_path == tmp_path / "x.sqlite3"
    assert module.detect_regression(model, changed(run, latency_ms=2.0))
    assert module.detect_regression(model, changed(run), baseline=run) == []

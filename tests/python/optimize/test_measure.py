"""The paired measurement's verdicts and the differences of outputs."""

import math

import pytest
import torch

from kernel_pytorch.optimize.measure import compare, median_interval, paired


def _clock(monkeypatch, noise):
    """A clock that the timed functions move themselves."""
    now = [0.0]
    monkeypatch.setattr("kernel_pytorch.optimize.measure.time.perf_counter", lambda: now[0])
    generator = torch.Generator().manual_seed(0)

    def work(seconds):
        def call():
            wobble = 1 + noise * float(torch.rand(1, generator=generator))
            now[0] += seconds * wobble

        return call

    return work


@pytest.mark.parametrize(
    ("before", "after", "noise", "verdict"),
    [
        (0.010, 0.005, 0.0, "wins"),
        (0.010, 0.005, 0.5, "wins"),
        (0.005, 0.010, 0.5, "loses"),
        (0.010, 0.010, 0.5, "neither"),
        (0.010, 0.0099, 0.5, "neither"),
    ],
)
def test_verdict(before, after, noise, verdict, monkeypatch):
    work = _clock(monkeypatch, noise)
    timing = paired(work(before), work(after), 0.5)
    assert timing.wins == (verdict == "wins") and timing.loses == (verdict == "loses")
    assert timing.low <= timing.speedup <= timing.high and timing.pairs >= 7


def test_switch_sets_the_side_before_each_sample(monkeypatch):
    state = []
    seen = []
    paired(
        lambda: seen.append(("before", state[-1])),
        lambda: seen.append(("after", state[-1])),
        0.0,
        state.append,
    )
    assert set(seen) == {("before", False), ("after", True)}


def test_interval_holds_the_median():
    values = [float(v) for v in range(1, 102)]
    low, high = median_interval(values)
    assert low < 51 < high and (low, high) == (values[40], values[60])


def test_compare():
    x = torch.randn(4, 8)
    assert compare([x], [x]).error == 0.0 and compare([x], [x]).cosine == 1.0
    worse = x.clone()
    worse[2] *= 1.01
    found = compare([worse], [x])
    assert found.error == pytest.approx(0.01, rel=1e-4) and found.cosine == pytest.approx(1.0)
    assert compare([x.bfloat16()], [x]).error == math.inf
    assert compare([x[:2]], [x]).error == math.inf
    assert compare([], [x]).error == math.inf
    nan = x.clone()
    nan[0, 0] = float("nan")
    assert compare([nan], [x]).error == math.inf and compare([nan], [nan]).error == 0.0
    assert compare([torch.tensor([1, 2])], [torch.tensor([1, 3])]).error == math.inf
    zeros = torch.zeros(2, 2)
    assert (
        compare([zeros], [zeros]).error == 0.0 and compare([zeros + 1], [zeros]).error == math.inf
    )

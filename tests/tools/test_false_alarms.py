"""Recorded runs of an unchanged model are never flagged, and 10% more work is found.

The record holds every sample, taken in turn with a third model, by one thread with priority, on a
machine that was doing much else; tools/bench/false_alarms.py makes it.
"""

import json
import pathlib

import pytest

from kernel_pytorch.core.regression import regressions
from tools.bench import false_alarms


@pytest.fixture(scope="module")
def record():
    path = pathlib.Path(__file__).parents[2] / "docs" / "records" / "regressions.json"
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def runs(record):
    return false_alarms.from_json(record)


def test_the_record_is_whole(record, runs):
    assert {name: len(found) for name, found in runs.items()} == {"unchanged": 200, "slower": 200}
    assert all(len(r.samples) == 25 for found in runs.values() for r in found)
    assert record["commit"] and record["machine"]["cpu"]


def test_an_unchanged_model_is_never_flagged(record, runs):
    found = false_alarms.judged(runs)
    assert found == record["judged"]
    assert found["unchanged"] == {"judged": 199, "flagged": 0} and found["too_busy"] == 0


def test_nor_when_any_run_is_the_only_baseline(runs):
    unchanged = runs["unchanged"][::4]
    alarms = [bool(regressions([a], b)) for a in unchanged for b in unchanged if a is not b]
    assert len(alarms) == 2450 and not any(alarms)


def test_ten_percent_more_work_is_found(record, runs):
    """With as many samples as the tracker takes when it is not told otherwise."""
    found = false_alarms.judged(false_alarms.pooled(runs, 4))
    assert found == record["judged_with_four_times_the_samples"]
    assert found["unchanged"] == {"judged": 49, "flagged": 0}
    assert found["slower"]["judged"] == 49 and found["slower"]["flagged"] >= 48

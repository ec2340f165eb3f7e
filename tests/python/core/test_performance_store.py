"""The store of runs: many writers, damage, other versions, other files."""

import dataclasses
import os
import sqlite3
import subprocess
import sys

import pytest

from kernel_pytorch.core.performance_store import PerformanceMetrics, PerformanceStore, StoreError


def run(**changes):
    found = PerformanceMetrics(
        model_name="m",
        model_hash="M_1",
        timestamp="2026-01-01T00:00:00",
        latency_ms=1.0,
        throughput=1000.0,
        memory_mb=2.0,
        backend="cpu",
        optimization_level="balanced",
        device="cpu",
        batch_size=1,
        samples=(0.1, 1 / 3),
        reference=(0.2, 1e-9),
        machine={"cpu": "x"},
        commit="abcdef",
    )
    return dataclasses.replace(found, **changes)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "folder" / "runs.sqlite3"


def test_nothing_is_made_before_the_first_run(path):
    store = PerformanceStore(path)
    assert store.find() == [] and store.delete() == 0
    assert not path.parent.exists()


def test_what_was_added_is_found(path):
    added = PerformanceStore(path).add(run())
    assert added.run_id == 1
    (found,) = PerformanceStore(path).find()
    assert found == added and found.samples == (0.1, 1 / 3)
    assert PerformanceMetrics.from_dict(found.to_dict()) == found
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA user_version").fetchone() == (1,)


def test_fields_that_are_unknown_or_missing_are_refused():
    with pytest.raises(ValueError, match="unknown field speed"):
        PerformanceMetrics.from_dict(run().to_dict() | {"speed": 1})
    with pytest.raises(ValueError, match="latency_ms"):
        PerformanceMetrics.from_dict({k: v for k, v in run().to_dict().items() if k[0] != "l"})


def test_filters(path):
    store = PerformanceStore(path)
    for number in range(4):
        store.add(
            run(
                model_hash=f"M_{number % 2}",
                backend="cpu" if number < 2 else "nvidia",
                optimization_level=f"O{number}",
                machine={"cpu": str(number)},
                commit=f"{number}abc",
            )
        )
    assert [r.run_id for r in store.find()] == [4, 3, 2, 1]
    assert [r.run_id for r in store.find(limit=2)] == [4, 3]
    assert [r.run_id for r in store.find("M_1")] == [4, 2]
    assert [r.run_id for r in store.find(backend="nvidia", level="O3")] == [4]
    assert [r.run_id for r in store.find(machine={"cpu": "1"})] == [2]
    assert [r.run_id for r in store.find(commit="2ab")] == [3]
    assert store.find(commit="%") == []  # no pattern, a beginning
    assert store.delete("M_1") == 2 and store.delete() == 2 and store.find() == []


def test_one_run_is_pinned(path):
    store = PerformanceStore(path)
    first, second = store.add(run()), store.add(run())
    store.pin(first)
    store.pin(second)
    assert [r.run_id for r in store.find(pinned=True)] == [2]
    with pytest.raises(ValueError, match="holds no run 7"):
        store.pin(run(run_id=7))
    assert [r.run_id for r in store.find(pinned=True)] == [2]


_WRITER = """
import dataclasses, sys
from kernel_pytorch.core.performance_store import PerformanceMetrics, PerformanceStore
store = PerformanceStore(sys.argv[1])
run = PerformanceMetrics("m", sys.argv[2], "t", 1.0, 1.0, 1.0, "cpu", "", "cpu", 1, samples=(1.0,))
for _ in range(25):
    store.add(run)
"""


def test_processes_write_at_once(path):
    """Also the file itself is made by whoever comes first."""
    writers = [
        subprocess.Popen([sys.executable, "-c", _WRITER, path, f"M_{i}"], env=_environment())
        for i in range(4)
    ]
    assert [w.wait(timeout=240) for w in writers] == [0, 0, 0, 0]
    store = PerformanceStore(path)
    assert [len(store.find(f"M_{i}")) for i in range(4)] == [25] * 4


def _environment():
    return os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}


@pytest.mark.parametrize("what", ["text", "truncated", "overwritten", "another database"])
def test_a_damaged_file_is_reported_and_kept(path, what):
    store = PerformanceStore(path)
    for _ in range(200):
        store.add(run(samples=tuple(float(i) for i in range(50))))
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("PRAGMA journal_mode = DELETE")
    content = path.read_bytes()
    if what == "text":
        path.write_text('{"old": "records"}' * 100)
    elif what == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif what == "overwritten":
        path.write_bytes(content[:8192] + b"\xff" * 8192 + content[16384:])
    else:
        path.unlink()
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE precious (x)")
    before = path.read_bytes()
    with pytest.warns(UserWarning, match="it was kept as runs.sqlite3.damaged-"):
        store = PerformanceStore(path)
    (aside,) = path.parent.glob("runs.sqlite3.damaged-*")
    kept = aside.read_bytes()
    # SQLite notes in the header that it was to use WAL; nothing else may differ.
    assert kept[100:] == before[100:] and len(kept) == len(before)
    assert store.find() == [] and store.add(run()).run_id == 1


def test_a_newer_version_is_refused_and_left_alone(path):
    PerformanceStore(path).add(run())
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 2")
    with pytest.raises(StoreError, match="written by a newer version .* upgrade"):
        PerformanceStore(path)
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM runs").fetchone() == (1,)


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="KPT_PERFORMANCE_STORE names another file"):
        PerformanceStore(tmp_path / "file" / "runs.sqlite3").add(run())
    with pytest.raises(StoreError):
        PerformanceStore(tmp_path)


def test_the_default_is_named_by_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("KPT_PERFORMANCE_STORE", str(tmp_path / "x.sqlite3"))
    assert PerformanceStore().path == tmp_path / "x.sqlite3"
    monkeypatch.delenv("KPT_PERFORMANCE_STORE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert PerformanceStore().path == tmp_path / ".kernel_pytorch" / "performance.sqlite3"

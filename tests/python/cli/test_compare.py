"""kpt compare: what A and B may be, verdicts, exit codes."""

import dataclasses
import json

import pytest

from kernel_pytorch.bench.run import Options, run
from kernel_pytorch.core.performance_store import PerformanceMetrics, PerformanceStore


def a_run(commit, milliseconds, **changes):
    # The spread of a quiet machine: 2% around the median.
    samples = tuple(1e-3 * milliseconds * (0.99 + 0.02 * i / 39) for i in range(40))
    found = PerformanceMetrics(
        model_name="encoder",
        model_hash="Encoder_1",
        timestamp="2026-01-01T00:00:00",
        latency_ms=milliseconds,
        throughput=1e3 / milliseconds,
        memory_mb=None,
        backend="cpu",
        optimization_level="balanced",
        device="cpu",
        batch_size=1,
        samples=samples,
        reference=(1e-3,) * 40,
        reference_name="mm",
        busy=0.0,
        machine={"cpu": "x"},
        commit=commit,
    )
    return dataclasses.replace(found, **changes)


@pytest.fixture
def store(performance_store):
    return PerformanceStore(performance_store)


@pytest.mark.parametrize(
    ("milliseconds", "options", "code", "verdict"),
    [
        (1.0, (), 0, "same"),
        (1.01, (), 0, "same"),
        (1.1, (), 1, "slower"),
        (1.1, ("--fail-on", "severe"), 0, "slower"),
        (1.5, ("--fail-on", "severe"), 1, "slower"),
        (0.8, (), 0, "faster"),
    ],
)
def test_verdicts_and_exit_codes(kpt, store, milliseconds, options, code, verdict):
    store.add(a_run("aaa", 1.0))
    store.add(a_run("bbb", milliseconds))
    done = kpt("compare", "aaa", "bbb", "--json", *options)
    data = json.loads(done.stdout)
    assert done.exit_code == code == data["exit_code"], done.output
    (pair,) = data["pairs"]
    assert pair["verdict"] == verdict
    assert pair["change"] == pytest.approx(milliseconds - 1, abs=1e-9)


def test_table_page_and_history(kpt, store, tmp_path):
    store.add(a_run("aaa", 1.0))
    store.add(a_run("bbb", 1.2))
    store.add(a_run("bbb", 1.0, model_name="new", model_hash="New_1"))
    page, history = tmp_path / "c.html", tmp_path / "h.html"
    done = kpt("compare", "baseline", "latest", "--html", page, "--history", history)
    assert done.exit_code == 1
    assert "encoder / cpu / balanced" in done.stdout and "slower (moderate)" in done.stdout
    assert "slower: encoder / cpu / balanced (moderate)" in done.stderr
    assert "slower (moderate)" in page.read_text() and history.read_text().count("<circle") == 3
    # `baseline` and `latest` of what has one run only are the same run.
    assert "new / cpu / balanced" in done.stdout


def test_what_is_only_on_one_side(kpt, store):
    store.add(a_run("aaa", 1.0))
    store.add(a_run("bbb", 1.0))
    store.add(a_run("bbb", 1.0, model_name="new", model_hash="New_1"))
    done = kpt("compare", "aaa", "bbb", "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["only_after"] == ["new / cpu / balanced"]


def test_nothing_that_could_be_judged_is_no_pass(kpt, store):
    store.add(a_run("aaa", 1.0))
    store.add(a_run("bbb", 1.0, busy=0.9))
    done = kpt("compare", "aaa", "bbb")
    assert done.exit_code == 3 and "nothing could be judged" in done.stderr
    assert "other processes used the machine" in done.stdout


def test_two_files_need_no_store(kpt, monkeypatch, tmp_path):
    for name in ("a", "b"):
        PerformanceStore(tmp_path / f"{name}.sqlite3").add(a_run(name, 1.0))
    monkeypatch.setenv("KPT_PERFORMANCE_STORE", str(tmp_path))  # a folder
    done = kpt("compare", tmp_path / "a.sqlite3", tmp_path / "b.sqlite3", "--json")
    assert done.exit_code == 0, done.output


def test_other_machines_are_compared_by_the_reference(kpt, store):
    store.add(a_run("aaa", 1.0))
    store.add(a_run("bbb", 2.0, machine={"cpu": "y"}, reference=(2e-3,) * 40))
    assert kpt("compare", "aaa", "bbb").exit_code == 0
    store.add(a_run("ccc", 2.0, machine={"cpu": "y"}, reference=()))
    done = kpt("compare", "aaa", "ccc", "--json")
    (pair,) = json.loads(done.stdout)["pairs"]
    assert done.exit_code == 3 and pair["reason"] == "another machine, and no common reference"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("aaa", "zzz"), "zzz: no file, and no runs of such a commit in .*; it has aaa"),
        (("aaa", "missing.json"), "missing.json: no such file"),
        (("aaa", "{text}"), "no record of `kpt bench --json` and no store"),
        (("aaa", "{other}"), "no record of `kpt bench --json` and no store"),
        (("aaa", "aaa", "--match", "nothing"), "nothing in common that has 'nothing'"),
    ],
)
def test_bad_names(kpt, store, tmp_path, names, message):
    import re

    store.add(a_run("aaa", 1.0))
    (tmp_path / "text.txt").write_text("hello")
    (tmp_path / "other.json").write_text('{"format": 1}')
    files = {"text": tmp_path / "text.txt", "other": tmp_path / "other.json"}
    done = kpt("compare", *(name.format(**files) for name in names))
    assert done.exit_code == 3 and re.search(message, done.stderr)
    # What is no store is read, never renamed.
    assert (tmp_path / "text.txt").read_text() == "hello"


def test_records_of_the_benchmarks(kpt, tmp_path):
    record = run(Options(ops=("softmax",), dtypes=("bfloat16",), match="512x1024", seconds=0.02))
    slower = dataclasses.replace(
        record,
        rows=[
            dataclasses.replace(
                r, kpt=2 * r.kpt, ratio=r.ratio / 2, ratio_low=r.ratio_low / 2,
                ratio_high=r.ratio_low / 1.9,
            )
            for r in record.rows
        ],
    )  # fmt: skip
    paths = []
    for name, found in (("a", record), ("b", slower)):
        paths.append(tmp_path / f"{name}.json")
        paths[-1].write_text(json.dumps(found.to_json()))
    assert kpt("compare", paths[0], paths[0]).exit_code == 0
    done = kpt("compare", *paths, "--json")
    assert done.exit_code == 1 and json.loads(done.stdout)["regressions"] == len(record.rows)


def test_the_benchmarks_write_to_the_store(kpt, store, tmp_path):
    args = ("bench", "--op", "softmax", "--dtype", "bf16", "--match", "512x1024", "--seconds", 0.02)
    assert kpt(*args, "--no-store").exit_code == 0
    assert store.find() == []
    assert kpt(*args).exit_code == 0
    runs = store.find()
    assert [r.model_name for r in runs] == [
        "softmax 512x1024 forward+backward bfloat16 in cache",
        "softmax 512x1024 bfloat16 in cache",
    ]
    for found in runs:
        assert len(found.samples) == len(found.reference) > 0
        assert found.reference_name == "PyTorch" and found.machine["isa"]
    assert kpt("compare", store.path, "latest").exit_code in (0, 3)  # 3: a loaded machine


def test_a_store_that_cannot_be_used_costs_no_measurement(kpt, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KPT_PERFORMANCE_STORE", str(tmp_path / "file" / "x.sqlite3"))
    done = kpt("bench", "--op", "softmax", "--dtype", "bf16", "--match", "512", "--seconds", 0.02)
    assert done.exit_code == 0 and done.stderr.count("samples are not kept") == 1

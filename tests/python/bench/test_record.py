"""A run's record: what is in it, as JSON and back, as a page and as lines of text."""

import dataclasses
import json
import re

import pytest
import torch

import kernel_pytorch
from kernel_pytorch.bench import tables
from kernel_pytorch.bench.goals import FAMILIES, SUITES
from kernel_pytorch.bench.page import page
from kernel_pytorch.bench.record import Overhead, Record, Row
from kernel_pytorch.bench.run import Options, run, select
from kernel_pytorch.ops import SPECS


@pytest.fixture(scope="module")
def record():
    """A short run of a few rows, one of them with a given output."""
    return run(Options(ops=("softmax",), dtypes=("bfloat16",), seconds=0.02))


def test_a_run(record):
    assert [(r.op, r.name) for r in record.rows] == [
        ("softmax", "512x1024"),
        ("softmax", "4096x4096 out="),
        ("softmax", "512x1024 forward+backward"),
        ("softmax", "4096x4096 forward+backward"),
    ]
    for row in record.rows:
        assert row.native and row.variant
        assert row.kpt > 0 and row.torch > 0
        assert row.ratio_low <= row.ratio <= row.ratio_high
        assert row.limit_share > 0 and row.bound in {"read", "copy", "fp32", "bf16", "int8"}
        assert row.pairs + row.dropped >= 9
    assert record.rows[0].residency.startswith("in cache")
    assert "copies" in record.rows[1].residency
    assert not record.skipped and not record.overhead
    assert set(record.limits) == {"fp32", "bf16", "int8", "read", "copy"}
    assert record.versions.torch == torch.__version__
    assert record.versions.kernel_pytorch == kernel_pytorch.__version__
    assert record.machine.threads == torch.get_num_threads()


def test_json_and_back(record, tmp_path):
    (tmp_path / "r.json").write_text(json.dumps(record.to_json()))
    assert Record.read(tmp_path / "r.json") == record
    with pytest.raises(ValueError, match="has format 0, not 1"):
        Record.from_json(record.to_json() | {"format": 0})


def test_settings_of_the_environment_are_recorded(monkeypatch):
    from kernel_pytorch.bench.record import versions

    monkeypatch.setenv("OMP_PROC_BIND", "true")
    assert versions().environment["OMP_PROC_BIND"] == "true"
    assert "PATH" not in versions().environment


def test_every_declared_row_can_be_chosen():
    rows = select(Options())
    assert {spec.name for spec, _ in rows} == {s.name for s in SPECS.values() if s.benchmarks}
    names = [(spec.name, row.name, row.dtype) for spec, row in rows]
    assert len(set(names)) == len(names)
    (only,) = {s.name for s, _ in select(Options(ops=("act",)))}
    assert only == "act"
    assert all("4096" in row.name for _, row in select(Options(match="4096")))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ops": ("nothing",)}, "--op nothing: unknown; there are act,"),
        ({"families": ("nothing",)}, "--family nothing: unknown; there are activation,"),
        ({"dtypes": ("int3",)}, "--dtype int3: unknown; there are bfloat16,"),
        ({"suite": "nothing"}, "--suite nothing: unknown; there are cpu, cpu-attention"),
        ({"match": "no such shape"}, "no benchmark passes the filters"),
    ],
)
def test_bad_filters(options, message):
    with pytest.raises(ValueError, match=message):
        run(Options(**options))


def test_a_row_that_cannot_run_costs_no_other(monkeypatch):
    from kernel_pytorch.bench import run as module

    real = module._measure

    def measure(spec, row, *rest):
        if "512" in row.name:
            raise RuntimeError("no such engine\nand more")
        return real(spec, row, *rest)

    monkeypatch.setattr(module, "_measure", measure)
    found = run(Options(ops=("softmax",), dtypes=("bfloat16",), seconds=0.02))
    assert [r.name for r in found.rows] == ["4096x4096 out=", "4096x4096 forward+backward"]
    assert found.skipped == {
        f"softmax {row} bfloat16": "RuntimeError: no such engine"
        for row in ("512x1024", "512x1024 forward+backward")
    }


def test_an_interrupted_run_keeps_its_rows(monkeypatch):
    from kernel_pytorch.bench import run as module

    real = module._measure

    def measure(spec, row, *rest):
        if "4096" in row.name:
            raise KeyboardInterrupt
        return real(spec, row, *rest)

    monkeypatch.setattr(module, "_measure", measure)
    found = run(Options(ops=("softmax",), dtypes=("bfloat16",), seconds=0.02))
    assert [r.name for r in found.rows] == ["512x1024"] and found.interrupted
    with pytest.raises(KeyboardInterrupt):
        run(Options(ops=("softmax",), match="4096", seconds=0.02))


def test_every_goal_names_rows():
    for name, goals in SUITES.items():
        known = {
            (s.name, str(b.dtype).removeprefix("torch."), b.name) for s, b in select(Options())
        }
        wanted = [(goal.op, goal.dtype, row) for goal in goals for row in goal.rows]
        assert not set(wanted) - known
        assert len(set(wanted)) == len(wanted)
        expected = {w for w in known if SPECS[w[0]].family == FAMILIES.get(name)} | set(wanted)
        chosen = select(Options(suite=name))
        assert {
            (s.name, str(b.dtype).removeprefix("torch."), b.name) for s, b in chosen
        } == expected
        assert all(goal.ratio or goal.share for goal in goals)


def test_a_goal_is_met_or_missed(record):
    assert [row.met is not None for row in record.rows] == [True, True, False, False]
    row = _row(record, goal_ratio=2.4, goal_share=0.75, ratio=2.5, limit_share=0.76)
    assert tables.goal_text(row) == "2.4x, 75%: met"
    assert tables.goal_text(dataclasses.replace(row, ratio=2.3)) == "2.4x, 75%: missed"
    assert tables.goal_text(dataclasses.replace(row, limit_share=0.7)) == "2.4x, 75%: missed"
    missed = dataclasses.replace(row, ratio=2.3, goal_why="the adders are full")
    assert tables.missed_texts([missed, row, missed]) == [
        f"{row.op} {row.name} {row.dtype}, {row.op} {row.name} {row.dtype}: the adders are full"
    ]
    none = _row(record, goal_ratio=None, goal_share=None)
    assert none.met is None and tables.goal_text(none) == ""


def _row(record, **changes):
    return dataclasses.replace(record.rows[0], **changes)


def test_cells(record):
    row = _row(
        record, kpt=12.34e-6, torch=1.5e-3, ratio=121.6, ratio_low=120, ratio_high=123,
        limit_share=0.256, bound="copy", unsteady=True,
    )  # fmt: skip
    cells = dict(zip(tables.HEADER, tables.cells(row)))
    assert cells["shape"] == "512x1024 (in cache)"
    assert (cells["KPT"], cells["PyTorch"]) == ("12.3 us", "1.5 ms")
    assert (cells["ratio"], cells["95% interval"]) == ("121.60x", "120.00 - 123.00")
    assert cells["of limit"] == "26% copy" and cells["variant"].endswith("(unsteady machine)")
    assert tables.rate_text("int8", 2.5e12) == "2500 GOP/s"
    assert tables.rate_text("read", 1.25e10) == "12.5 GB/s"


def test_page(record):
    slow = _row(record, op="a<b", ratio=0.5, ratio_low=0.4, ratio_high=0.6)
    even = _row(record, op="c", ratio=1.0, ratio_low=0.9, ratio_high=1.1)
    overhead = [Overhead(name="f, 4 tensors in", kpt=3e-6, torch=2e-6, torch_name="F.linear")]
    text = page(
        dataclasses.replace(
            record,
            rows=[*record.rows, slow, even],
            overhead=overhead,
            skipped={"row <x>": "because"},
        )
    )
    assert text.startswith("<!doctype html>") and text.rstrip().endswith("</html>")
    # Self-contained: nothing is fetched, nothing unescaped.
    assert not re.search(r"https?://|src=|@import|url\(", text)
    assert "a<b" not in text and "a&lt;b" in text and "row &lt;x&gt;" in text
    assert (
        text.count("<tr title=") == len(record.rows) + 2 and text.count('data-verdict="bad"') == 1
    )
    assert '<option value="a&lt;b">' in text and 'name="text"' in text
    for words in ("GFLOP/s", "GB/s", "PyTorch", "F.linear", record.versions.torch, "Not run"):
        assert words in text


def test_page_without_rows(record):
    text = page(dataclasses.replace(record, rows=[]))
    assert "<script" not in text and "GB/s" in text


def test_overhead_has_the_row_of_four_tensors():
    from kernel_pytorch.bench import overhead

    names = [item.name for item in overhead._ours()]
    assert any("4 tensors in, 1 out" in name for name in names)


def test_rows_are_plain_data():
    assert {f.name for f in dataclasses.fields(Row)} >= {"kpt", "torch", "ratio", "limit_share"}

"""kpt bench and tools/bench: options, output, exit codes. Times decide nothing here."""

import dataclasses
import json

import pytest

from kernel_pytorch.bench.record import Record
from kernel_pytorch.bench.run import Options, run

_QUICK = ("--op", "softmax", "--dtype", "bf16", "--match", "512x1024", "--seconds", "0.02")


@pytest.fixture(scope="module")
def record():
    return run(Options(ops=("softmax",), dtypes=("bfloat16",), match="512x1024", seconds=0.02))


@pytest.fixture
def recorded(monkeypatch, record):
    """recorded(rows=...): the next run gives this record."""

    def use(**changes):
        found = dataclasses.replace(record, **changes)
        monkeypatch.setattr("kernel_pytorch.bench.run.run", lambda *_: found)

    return use


def test_json_file_and_page(run, tmp_path):
    code, out, err = run("bench", *_QUICK, "--json", tmp_path / "b.json", "--html", tmp_path / "b")
    assert code == 0, err
    found = Record.read(tmp_path / "b.json")
    assert {(r.op, r.dtype) for r in found.rows} == {("softmax", "bfloat16")}
    assert "512x1024" in out and "Limits, measured in this run: fp32" in out
    assert (tmp_path / "b").read_text().startswith("<!doctype html>")
    assert sorted(f.name for f in tmp_path.iterdir()) == ["b", "b.json"]


def test_json_alone_on_stdout(kpt):
    result = kpt("bench", *_QUICK, "--json")
    assert Record.from_json(json.loads(result.stdout)).rows[0].native


@pytest.mark.parametrize("columns", ["60", "80", "120", "200"])
def test_table(kpt, recorded, monkeypatch, columns):
    recorded()
    monkeypatch.setenv("COLUMNS", columns)
    text = kpt("bench").stdout
    for word in ("softmax", "512x1024", "bf16", "ratio", "limit", "goal", "Goals: "):
        assert word in text
    if columns != "60":
        assert max(map(len, text.splitlines())) <= int(columns)


def test_list(kpt):
    result = kpt("bench", "--list", "--op", "softmax", "--dtype", "fp32")
    assert result.stdout.splitlines() == [
        "softmax  512x1024  float32",
        "softmax  4096x4096 out=  float32",
        "softmax  512x1024 forward+backward  float32",
        "softmax  4096x4096 forward+backward  float32",
    ]
    rows = json.loads(kpt("bench", "--list", "--op", "act", "--json").stdout)["rows"]
    assert {r["op"] for r in rows} == {"act"}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--op", "nothing"), "--op nothing: unknown; there are act,"),
        (("--family", "nothing"), "--family nothing: unknown"),
        (("--dtype", "int3"), "--dtype int3: unknown"),
        (("--match", "nothing"), "no benchmark passes the filters"),
        (("--seconds", "0"), "--seconds"),
        (("--threads", "0"), "--threads"),
    ],
)
@pytest.mark.parametrize("more", [(), ("--list",)])
def test_usage(kpt, args, message, more):
    result = kpt("bench", *args, *more)
    assert result.exit_code == 2 and message in result.stderr and result.stdout == ""


def test_bound_and_rows_that_did_not_run(kpt, recorded, record):
    row = dataclasses.replace(record.rows[0], ratio=1.5, ratio_low=1.4, ratio_high=1.6)
    recorded(rows=[row])
    assert kpt("bench", "--fail-below", "1.55").exit_code == 0
    result = kpt("bench", "--fail-below", "1.7")
    assert result.exit_code == 1
    assert "below 1.7x: softmax 512x1024 bfloat16 (1.50x)" in result.stderr
    recorded(skipped={"act x": "RuntimeError: no"})
    result = kpt("bench")
    assert result.exit_code == 1 and "did not run: act x: RuntimeError: no" in result.stderr


def test_without_the_module(run):
    code, out, err = run("bench", *_QUICK, KPT_ISA="nonsense")
    assert (code, out) == (3, "") and "unknown ISA level 'nonsense'" in err


def test_sleeping_threads_are_warned_of(kpt, recorded, monkeypatch):
    recorded()
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    assert "OMP_WAIT_POLICY=passive" in kpt("bench").stderr
    monkeypatch.delenv("OMP_WAIT_POLICY")
    assert "OMP_WAIT_POLICY" not in kpt("bench").stderr


def test_an_unwritable_page_is_told_before_the_run(kpt, monkeypatch):
    monkeypatch.setattr("kernel_pytorch.bench.run.run", lambda *_: pytest.fail("it ran"))
    result = kpt("bench", "--html", "/no/such/folder/b.html")
    assert result.exit_code == 4 and "does not exist" in result.stderr

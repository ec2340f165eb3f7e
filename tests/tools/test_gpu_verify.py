"""tools/gpu/verify where there is no GPU: what it plans, keeps, survives and says; and its checks
of kernels, run on the CPU's."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import pytest
import torch

from kernel_pytorch.backends import cpu
from kernel_pytorch.ops import SPECS
from tests.contract import harness
from tools.gpu import attention_bench, bench, build, checks, plan, records, session

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEVICE = {"name": "NVIDIA H200", "major": 9, "minor": 0}

# Answers as tools/gpu/worker.py does; the unit's subject says what becomes of it.
WORKER = """
import json, os, sys, time
for line in sys.stdin:
    kind, _, subject = line.strip().partition("/")
    if subject == "crash":
        os._exit(5)
    if subject == "hang":
        time.sleep(600)
    print("words that are no answer", flush=True)
    outcome = {"status": "failed" if subject == "bad" else "passed", "data": {"pid": os.getpid()}}
    if subject == "restart":
        outcome["restart"] = True
    print("KPT-RESULT " + json.dumps(outcome), flush=True)
"""


@pytest.fixture
def worker():
    made = session.Worker([sys.executable, "-c", WORKER], dict(os.environ))
    yield made
    made.close()


def _units(*subjects, limit_s=30):
    return [plan.Unit(kind="contract", subject=s, limit_s=limit_s) for s in subjects]


def test_most_important_first():
    keys = [u.key for u in plan.plan(["a", "b", "c"], {"a": "2026-03-01", "c": "2026-02-01"})]
    assert keys[0] == "module/cuda"
    # Never run before, then by age.
    assert keys[1:4] == ["contract/b", "contract/c", "contract/a"]
    assert keys.index("bench/b") > keys.index("streams/a") > keys.index("limits/device")
    assert len(set(keys)) == len(keys)
    many = plan.plan([f"op{i}" for i in range(20)], {})
    assert sum(u.kind == "memcheck" for u in many) == plan.SANITIZED_OPS


def test_outcomes_are_kept_and_gone_on_from(tmp_path, worker):
    results = records.Results(tmp_path, DEVICE, "c" * 40)
    assert session.run_units(_units("one", "crash", "bad", "two"), results, worker, 60)
    saved = json.loads(results.path.read_text())
    states = {key: unit["status"] for key, unit in saved["units"].items()}
    assert states == {
        "contract/one": "passed",
        "contract/crash": "crashed",
        "contract/bad": "failed",
        "contract/two": "passed",
    }
    assert "ended with 5" in saved["units"]["contract/crash"]["error"]
    again = records.Results(tmp_path, DEVICE, "c" * 40)
    assert again.is_done("contract/bad") and not again.is_done("contract/crash")
    other = records.Results(tmp_path, DEVICE, "d" * 40)
    assert not other.is_done("contract/one") and other.path != again.path


def test_each_outcome_is_on_disk_before_the_next_begins(tmp_path, worker, monkeypatch):
    results = records.Results(tmp_path, DEVICE, "c" * 40)
    seen = []
    run = worker.run

    def spy(key, limit):
        seen.append(sorted(json.loads(results.path.read_text())["units"]))
        return run(key, limit)

    monkeypatch.setattr(worker, "run", spy)
    session.run_units(_units("one", "two"), results, worker, 60)
    assert seen == [[], ["contract/one"]]


def test_what_hangs_is_stopped(tmp_path, worker):
    results = records.Results(tmp_path, DEVICE, "c" * 40)
    assert session.run_units(_units("hang", "one", limit_s=2), results, worker, 60)
    states = [u["status"] for _, u in sorted(results.data["units"].items())]
    assert states == ["timeout", "passed"]


def test_nothing_begins_when_time_is_up(tmp_path, worker):
    results = records.Results(tmp_path, DEVICE, "c" * 40)
    assert not session.run_units(_units("hang", "one"), results, worker, 2)
    # Stopped for want of time, not of its own: it is not held against the unit.
    assert results.data["units"] == {}


def test_a_broken_process_is_replaced(worker):
    first = worker.run("contract/one", 30)["data"]["pid"]
    assert worker.run("contract/restart", 30)["data"]["pid"] == first
    assert worker.run("contract/one", 30)["data"]["pid"] != first


def test_newest_runs(tmp_path):
    for commit, ended, status in (
        ("a" * 40, "2026-01-01T00:00:00Z", "passed"),
        ("b" * 40, "2026-02-01T00:00:00Z", "failed"),
    ):
        results = records.Results(tmp_path, DEVICE, commit)
        results.put("contract/rms_norm", {"status": status, "ended": ended})
        results.put("bench/rms_norm", {"status": "passed", "ended": ended})
    assert records.newest_runs(tmp_path) == {
        "nvidia": {"rms_norm": {"device": "NVIDIA H200", "commit": "a" * 40, "date": "2026-01-01"}}
    }
    assert [r["commit"][0] for r in records.read_all(tmp_path)] == ["b", "a"]


def test_table():
    row = {
        "op": "rms_norm",
        "name": "8192x8192",
        "dtype": "bfloat16",
        "seconds": 1e-4,
        "rate": 2.7e12,
        "share": 0.6,
        "ratio": 1.5,
        "peer": "eager",
    }
    text = session.table(
        {
            "device": DEVICE,
            "commit": "abc",
            "units": {
                "limits/device": {"status": "passed", "data": {"memory": 4.3e12}},
                "bench/rms_norm": {"status": "passed", "data": {"rows": [row]}},
                "contract/act": {"status": "failed", "error": "act: error 3"},
            },
        }
    )
    assert "NVIDIA H200" in text and "4.30 T/s" in text and "1.50x eager" in text
    assert "contract/act: failed: act: error 3" in text


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_it_says_so(tmp_path):
    result = subprocess.run(
        [sys.executable, str(ROOT / "tools/gpu/verify"), "--results", str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert result.returncode == session.NO_GPU, result.stderr
    assert "no GPU to verify on" in result.stdout and "Nothing was run." in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_records_in_the_repository_are_whole():
    for record in records.read_all(ROOT / "tools/gpu/results"):
        assert record["schema"] == records.SCHEMA and record["device"]["name"]


# The checks that a GPU is given, on the CPU's kernels.


@pytest.fixture
def on_cpu(monkeypatch):
    monkeypatch.setattr(checks, "_DEVICE", "cpu")
    monkeypatch.setattr(bench, "_DEVICE", "cpu")
    monkeypatch.setattr(checks, "cuda", cpu)


def test_contract_and_memory_pass_where_kernels_are_right(on_cpu):
    found = checks.contract("rms_norm")
    usable = [v.name for v in cpu.variants("rms_norm") if v.isa in harness.isa_levels()]
    assert sorted(found["cases"]) == sorted(usable) and found["native_unforced"] > 0
    assert checks.memory("add_rms_norm")["guarded"] > 0
    assert "why" in checks.large("pack_weight")


def test_contract_fails_where_they_are_not(on_cpu, monkeypatch):
    def off(*args, **kwargs):
        raise AssertionError("error 3 > 2")

    monkeypatch.setattr(harness, "check_accuracy", off)
    with pytest.raises(AssertionError, match="error 3 > 2"):
        checks.contract("rms_norm")


def test_benchmark_rows(on_cpu, monkeypatch):
    def measure(runs):
        for run in runs:
            run(0)
        return [1e-3, 3e-3, 2e-3][: len(runs)]

    monkeypatch.setattr(bench, "_measure", measure)
    monkeypatch.setattr(bench, "_limits", {"memory": 1e12, "bf16": 1e14})
    monkeypatch.setattr(bench, "_for_gpu", lambda spec: [b for b in spec.benchmarks if b.hot])
    monkeypatch.setattr(torch, "compile", lambda f, **_: f)
    rows = bench.rows("rms_norm")["rows"]
    assert rows and all(r["peer"] == "torch.compile" and r["ratio"] == 2.0 for r in rows)
    assert all(0 < r["share"] < 1 and r["unit"] == "B/s" for r in rows)


@pytest.mark.parametrize("op", ["attention_forward", "attention_backward"])
def test_peers_of_attention_agree_with_eager(op):
    row = attention_bench.rows(op)[2]
    case = dataclasses.replace(row.case, sizes={**row.case.sizes, "Sq": 40, "Sk": 40})
    args, kwargs = SPECS[op].build(case, torch.float32, torch.Generator().manual_seed(0))
    found = attention_bench.peers(op, case)
    assert set(found) == {"sdpa flash", "sdpa cudnn", "flex_attention"}
    got = found["sdpa flash"](*args, **kwargs)
    want = SPECS[op].eager(*args, **kwargs)
    for g, w in zip(harness.outputs_of(got), harness.outputs_of(want)):
        torch.testing.assert_close(g, w, rtol=1e-3, atol=1e-4)


def test_rows_that_fill_a_gpu():
    made = bench._for_gpu(SPECS["rms_norm"])
    large = [b for b in made if b.name == "8192x8192"]
    assert {b.dtype for b in large} == {b.dtype for b in SPECS["rms_norm"].benchmarks}
    assert all(b.case.lead == (8192,) and b.case.sizes == {"N": 8192} for b in large)


# Building there.


def test_flags_and_sources_are_bazels(tmp_path):
    commands = build.cuda_commands(tmp_path, "90", "/usr/local/cuda/bin/nvcc", tmp_path)
    by_name = {path.name: command for path, command in commands.items()}
    tuned = by_name["kernels_probe_cuda_product_sm90a.cu.cc.o"]
    assert "-gencode=arch=compute_90a,code=sm_90a" in tuned and "-O3" in tuned
    norm = by_name["kernels_norm_gpu_norm.cu.cc.o"]
    assert "-gencode=arch=compute_90a,code=sm_90a" in norm
    assert "bindings_cuda.cc.o" in by_name and "bindings_norm.cc.o" in by_name
    assert not [n for n in by_name if n.startswith(("kernels_norm_cpu", "bindings_cpu"))]
    assert "bindings_base_repeat.cc.o" not in by_name and "bindings_probe.cc.o" not in by_name
    older = build.cuda_commands(tmp_path, "86", "/usr/local/cuda/bin/nvcc", tmp_path)
    (norm,) = (c for p, c in older.items() if p.name == "kernels_norm_gpu_norm.cu.cc.o")
    assert "-gencode=arch=compute_80,code=compute_80" in norm
    (tuned,) = (c for p, c in older.items() if "sm90a" in p.name)
    assert "-gencode=arch=compute_90a,code=sm_90a" in tuned

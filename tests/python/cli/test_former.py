"""The entry points of earlier versions, and what becomes of their options."""

import argparse
import importlib

import pytest

from kernel_pytorch import cli
from kernel_pytorch.cli import former


@pytest.fixture
def given(monkeypatch):
    """What the command line was given, in place of running it."""
    calls = []
    monkeypatch.setattr(former, "main", lambda args: calls.append(args) or 7)
    return calls


@pytest.mark.parametrize(
    ("module", "command"), [("optimize", "optimize"), ("benchmark", "bench"), ("doctor", "doctor")]
)
def test_each_is_a_command_of_kpt(given, monkeypatch, module, command):
    monkeypatch.setattr("sys.argv", [f"kpt-{module}", "--json"])
    assert importlib.import_module(f"kernel_pytorch.cli.{module}").main() == 7
    assert given == [[command, "--json"]]


@pytest.mark.parametrize(
    ("command", "args", "expected"),
    [
        (
            "optimize",
            ["--model", "m.pt2", "--input-shape=1,3", "-o", "f"],
            ["m.pt2", "--input", "float32[1,3]", "-o", "f"],
        ),
        ("bench", ["--quick", "--output", "r.json"], ["--seconds", "0.2", "--json=r.json"]),
        ("doctor", ["-o", "d.json", "--strict"], ["--json=d.json", "--strict"]),
        ("doctor", ["--output"], ["--output"]),  # without a value: the command says so
    ],
)
def test_options_of_old(given, command, args, expected):
    assert former.run(command, args) == 7
    assert given == [[command, *expected]]


def test_options_that_mean_nothing_any_more_are_named(given, capsys):
    former.run("optimize", ["--level", "compile", "--hardware=auto", "m.pt2"])
    assert given == [["optimize", "m.pt2"]]
    said = capsys.readouterr().err
    assert "kpt optimize: --level: every replacement is measured" in said and "--hardware" in said


@pytest.mark.parametrize(
    ("name", "command"),
    [("OptimizeCommand", "optimize"), ("BenchmarkCommand", "bench"), ("DoctorCommand", "doctor")],
)
def test_commands_in_another_argparse(given, name, command):
    parser = argparse.ArgumentParser()
    found = getattr(cli, name)
    found.register(parser.add_subparsers())
    args = parser.parse_args([found.name, "--strict", "x"])
    assert args.func(args) == 7 and given == [[command, "--strict", "x"]]


def test_as_processes(run):
    for module in ("optimize", "benchmark", "doctor"):
        name = f"kernel_pytorch.cli.{module}"
        code = f"import runpy; runpy.run_module({name!r}, run_name='__main__')"
        status, out, err = run("--help", code=code)
        assert (status, err) == (0, "") and "Usage: kpt" in out

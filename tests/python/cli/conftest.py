"""Ways to run the command line: in this process, and as a process of its own."""

import os
import signal
import subprocess
import sys

import pytest
from typer.testing import CliRunner


@pytest.fixture(autouse=True)
def performance_store(monkeypatch, tmp_path_factory):
    """No test writes into the user's store."""
    path = tmp_path_factory.mktemp("store") / "performance.sqlite3"
    monkeypatch.setenv("KPT_PERFORMANCE_STORE", str(path))
    return path


@pytest.fixture
def kpt(monkeypatch):
    """kpt("ops", "--json"): the result of typer's runner, stdout and stderr apart."""
    monkeypatch.setenv("COLUMNS", "120")

    def run(*args):
        from kernel_pytorch import cli

        return CliRunner().invoke(cli.app, list(map(str, args)), prog_name="kpt")

    return run


@pytest.fixture
def start():
    """start("ops"): a process that runs the command line, with its output piped."""
    running = []

    def begin(*args, code=None, **environment):
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        env.pop("COLUMNS", None)
        env |= environment
        command = ["-c", code] if code else ["-m", "kernel_pytorch.cli"]
        # A shell's background job would ignore Ctrl-C, and so would what it starts.
        process = subprocess.Popen(
            [sys.executable, *command, *map(str, args)],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        running.append(process)
        return process

    yield begin
    for process in running:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def run(start):
    """run("ops"): (exit code, stdout, stderr) of a process that runs the command line."""

    def finish(*args, **options):
        process = start(*args, **options)
        out, err = process.communicate(timeout=300)
        return process.returncode, out, err

    return finish

"""How the command line starts and ends: imports, help, version, errors, exit codes, pipes."""

import json
import pathlib
import signal

import pytest

import kernel_pytorch
from kernel_pytorch import cli

_COMMANDS = ("bench", "compare", "config", "demo", "doctor", "ops", "optimize", "plan", "validate")
_HEAVY = ("torch", "transformers", "safetensors", "numpy", "rich", "pydantic")

_IMPORTS = """
import sys
from kernel_pytorch import cli
code = cli.main(sys.argv[1:])
print("imported:", *(name for name in {heavy!r} if name in sys.modules))
sys.exit(code)
"""


@pytest.mark.parametrize("args", [("--help",), ("--version",), *((c, "--help") for c in _COMMANDS)])
def test_help_imports_nothing_heavy(run, args):
    code, out, err = run(*args, code=_IMPORTS.format(heavy=_HEAVY))
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == "imported:"


def test_usage_errors_import_no_torch(run):
    code, out, err = run("doctor", "--no-such-option", code=_IMPORTS.format(heavy=_HEAVY[:3]))
    assert code == 2 and out == "imported:\n"
    assert "--no-such-option" in err and "Traceback" not in err


def test_help_names_commands_and_exit_codes(kpt):
    for text in (kpt("--help").stdout, kpt("-h").stdout):
        for command in _COMMANDS:
            assert f"  {command} " in text
        assert "Exit codes:" in text
        for code in ("0 ", "1 ", "2 ", "3 ", "4 ", "70 ", "130 "):
            assert f"\n  {code}" in text


@pytest.mark.parametrize("columns", [60, 120])
@pytest.mark.parametrize("command", [(), ("optimize",)], ids=str)
def test_help_fits(run, command, columns):
    code, out, _ = run(*command, "--help", COLUMNS=str(columns))
    assert code == 0 and max(map(len, out.splitlines())) <= columns


@pytest.mark.parametrize("command", _COMMANDS)
def test_every_command_has_json(kpt, command):
    assert "--json [=FILE]" in kpt(command, "--help").stdout


def test_main_returns_the_exit_code(capsys):
    assert cli.main(["--version"]) == 0
    assert "kernelpytorch" in capsys.readouterr().out
    assert cli.main(["--help"]) == 0
    assert cli.main([]) == 2
    assert cli.main(["no-such-command"]) == 2
    assert cli.main(["ops", "no_such_operator"]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_version(run):
    assert run("--version") == (0, f"kpt (kernelpytorch) {kernel_pytorch.__version__}\n", "")


def test_a_process_of_its_own(run):
    code, out, err = run("ops", "--json")
    assert code == 0 and json.loads(out)["ops"]
    assert "{" not in err


def test_errors_are_json_too(kpt):
    result = kpt("ops", "nothing", "--json")
    error = json.loads(result.stdout)
    assert result.exit_code == error["exit_code"] == 2
    assert error["error"].startswith("nothing: unknown operator; there are act,")
    assert result.stderr.startswith("kpt ops: nothing: unknown operator")


def test_json_to_a_file_beside_the_table(kpt, tmp_path):
    result = kpt("ops", f"--json={tmp_path}/ops.json")
    assert result.exit_code == 0 and "softmax" in result.stdout and "{" not in result.stdout
    assert f"wrote {tmp_path}/ops.json" in result.stderr
    assert json.loads((tmp_path / "ops.json").read_text())["ops"]
    assert [f.name for f in tmp_path.iterdir()] == ["ops.json"]


def test_json_before_a_positional_argument(kpt):
    assert json.loads(kpt("ops", "--json", "softmax").stdout)["op"] == "softmax"


@pytest.mark.parametrize(
    ("target", "message"),
    [("{}/no/such.json", "does not exist"), ("{}", "is a folder"), ("/proc/x.json", "")],
)
def test_unwritable_files(kpt, tmp_path, target, message):
    result = kpt("ops", f"--json={target.format(tmp_path)}")
    assert result.exit_code == 4
    assert message in result.stderr and "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_device_is_written_to_not_replaced(kpt):
    assert kpt("ops", "--json=/dev/null").exit_code == 0
    assert pathlib.Path("/dev/null").is_char_device()


def test_a_bug_shows_its_traceback_and_70(kpt, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError("oh")

    monkeypatch.setattr("kernel_pytorch.cli.doctor.memory.check", broken)
    result = kpt("doctor", "--json")
    assert result.exit_code == 70 and json.loads(result.stdout)["exit_code"] == 70
    assert "Traceback" in result.stderr and "This is a bug in kpt" in result.stderr


def test_interrupt(kpt, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("kernel_pytorch.cli.doctor.memory.check", interrupted)
    result = kpt("doctor")
    assert result.exit_code == 130 and "interrupted; nothing was written" in result.stderr
    assert "Traceback" not in result.stderr


def test_interrupt_from_the_keyboard(start):
    process = start("bench", "--seconds", "60", "--op", "softmax", "--no-overhead")
    # Progress on stderr says that it is under way.
    line = process.stderr.readline()
    assert line
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert out == "" and "Traceback" not in err and "interrupted" in err


_IGNORED = """
import os, signal, sys, time, weakref
from kernel_pytorch.cli.doctor import memory
class Thing: pass
def check(say):
    thing = Thing()
    kept = weakref.ref(thing, lambda _: os.kill(os.getpid(), signal.SIGINT))
    del thing  # the interrupt is raised in a callback, whose exceptions Python ignores
    time.sleep(60)
memory.check = check
from kernel_pytorch import cli
sys.exit(cli.main(["doctor"]))
"""


def test_an_interrupt_that_python_ignores(run):
    code, out, err = run(code=_IGNORED)
    assert (code, out) == (130, "") and "Exception ignored" not in err, err


def test_a_reader_that_goes_away(start):
    process = start("ops")
    process.stdout.close()
    assert process.wait(timeout=120) == 141
    assert "Traceback" not in process.stderr.read()


_NO_TORCH = """
import sys
sys.modules["torch"] = None
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")
del sys.modules["torch"]
sys.meta_path.insert(0, Missing())
from kernel_pytorch import cli
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    "args", [("ops",), ("bench",), ("demo",), ("plan", "x"), ("optimize", "x", "-o", "y")]
)
def test_without_torch_commands_say_what_to_install(run, args):
    code, out, err = run(*args, code=_NO_TORCH)
    assert (code, out) == (3, "")
    assert "torch is not installed: pip install 'torch>=2.11'" in err and "Traceback" not in err


def test_without_torch_the_doctor_still_reports(run):
    code, out, err = run("doctor", "--json", code=_NO_TORCH)
    assert code == 1, err
    found = {(f["area"], f["name"]): f for f in json.loads(out)["findings"]}
    torch = found["software", "PyTorch"]
    assert (torch["status"], torch["value"]) == ("problem", "not installed")
    assert torch["fix"] == "pip install 'torch>=2.11'"
    assert found["cpu", "flags"]["data"]["flags"] is not None
    assert ("gpus", "NVIDIA") in found


def test_colours_obey_no_color(run):
    _, coloured, _ = run("ops", FORCE_COLOR="1", NO_COLOR="", TERM="xterm-256color")
    _, plain, _ = run("ops", FORCE_COLOR="1", NO_COLOR="1", TERM="xterm-256color")
    _, piped, _ = run("ops")
    assert "\x1b[32m" in coloured
    assert "\x1b[32m" not in plain and "\x1b" not in piped

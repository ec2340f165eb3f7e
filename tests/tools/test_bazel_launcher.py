"""tools/bazel and tools/bootstrap/get_bazel.sh, in a copy of their folder and with a trimmed PATH.

Nothing is downloaded: programs the launcher finds on PATH are stand-ins that say what they got.
"""

import os
import pathlib
import shutil
import signal
import subprocess
import time

import pytest

_SOURCE = pathlib.Path(__file__).resolve().parents[2]
# What tools/bazel itself may use beyond the shell; anything else must be asked for.
_COREUTILS = (
    "awk basename bash cat chmod cut date dirname env getent grep head id mkdir mv printf realpath "
    "rm sed sha256sum sh sleep sort timeout touch tr uname"
)
# Says how it was called, one argument a line, and ends with the status it is told to.
_FAKE_BAZEL = """#!/bin/bash
if [ "$1" = --version ]; then echo "{version}"; exit 0; fi
echo "program={name}"
printf 'arg=%s\\n' "$@"
echo "home=$HOME"
echo "cwd=$PWD"
echo "caller=${{KPT_WORKING_DIRECTORY-}}"
exit "${{FAKE_STATUS:-0}}"
"""
# Stands in for the bootstrap: counts how often it ran, lasts as long as a file is there.
_FAKE_BOOTSTRAP = """#!/bin/bash
echo run >>"{log}"
while [ -e "{hold}" ]; do sleep 0.05; done
mkdir -p "$1.new/bin"
printf '#!/bin/bash\\necho "program=private"\\nprintf "arg=%%s\\\\n" "$@"\\n' >"$1.new/bin/bazel"
chmod +x "$1.new/bin/bazel"
mv "$1.new" "$1"
"""


def _script(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)


class Launcher:
    """A copy of the launcher with its own cache and a PATH of chosen programs."""

    def __init__(self, folder):
        self.root = folder / "repo"
        (self.root / "tools").mkdir(parents=True)
        shutil.copy(_SOURCE / "tools/bazel", self.root / "tools/bazel")
        shutil.copytree(_SOURCE / "tools/bootstrap", self.root / "tools/bootstrap")
        shutil.copy(_SOURCE / "MODULE.bazel", self.root / "MODULE.bazel")
        self.path = folder / "path"
        self.path.mkdir()
        self.home = folder / "home"
        self.home.mkdir()
        for name in [*_COREUTILS.split(), "flock"]:
            (self.path / name).symlink_to(shutil.which(name))
        for name in ("g++", "python3"):
            _script(self.path / name, "#!/bin/bash\nexit 0\n")
        self.log = folder / "log"
        self.hold = folder / "hold"

    def add_bazel(self, name="bazel", version="bazel 7.7.1"):
        _script(self.path / name, _FAKE_BAZEL.format(name=name, version=version))

    def add_bootstrap(self):
        _script(
            self.root / "tools/bootstrap/get_bazel.sh",
            _FAKE_BOOTSTRAP.format(log=self.log, hold=self.hold),
        )

    def environment(self, **changes):
        environment = {"PATH": str(self.path), "HOME": str(self.home)}
        environment.update(changes)
        return {k: v for k, v in environment.items() if v is not None}

    def start(self, *args, cwd="/", program=None, **changes):
        return subprocess.Popen(
            [program or self.root / "tools/bazel", *args],
            cwd=cwd,
            env=self.environment(**changes),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *args, **options):
        process = self.start(*args, **options)
        out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(args, process.returncode, out, err)


@pytest.fixture
def launcher(tmp_path):
    # Some sandboxes keep the test's folder under /tmp, where the launcher refuses its cache.
    if str(tmp_path.resolve()).startswith("/tmp/"):
        pytest.skip("needs a folder outside /tmp (TEST_TMPDIR)")
    return Launcher(tmp_path.resolve())


def _arguments(result):
    return [line[4:] for line in result.stdout.splitlines() if line.startswith("arg=")]


def test_takes_a_fitting_bazel_from_the_path(launcher):
    launcher.add_bazel()
    result = launcher.run("test", "//...")
    assert result.returncode == 0, result.stderr
    assert "program=bazel\n" in result.stdout
    assert _arguments(result)[1:] == ["test", "//..."]
    assert _arguments(result)[0].startswith("--bazelrc=")


def test_passes_every_argument_through(launcher):
    launcher.add_bazel()
    args = [
        "run",
        "--config=a b",
        "//:kpt",
        "--",
        "demo",
        "",
        "--json",
        "*",
        'it\'s "quoted"',
        "$HOME",
    ]
    assert _arguments(launcher.run(*args))[1:] == args


def test_passes_the_status_through(launcher):
    launcher.add_bazel()
    assert launcher.run("build", FAKE_STATUS="37").returncode == 37


@pytest.mark.parametrize(
    ("version", "fits"),
    [
        ("bazel 6.5.0", False),
        ("bazel 7.3.9", False),
        ("bazel 7.4.0", True),
        ("bazel 7.7.1- (@non-git)", True),
        ("bazel 8.4.2", True),
        ("bazel 9.0.0", False),
        ("bazel 10.1.0", False),
        ("no idea", False),
    ],
)
def test_versions(launcher, version, fits):
    launcher.add_bazel(version=version)
    launcher.add_bootstrap()
    result = launcher.run("info")
    assert result.returncode == 0, result.stderr
    assert f"program={'bazel' if fits else 'private'}\n" in result.stdout
    assert ("passing over" in result.stderr) != fits


def test_bazelisk_is_the_second_choice(launcher):
    launcher.add_bazel(version="bazel 5.0.0")
    launcher.add_bazel("bazelisk", "bazel 8.1.0")
    result = launcher.run("info")
    assert "program=bazelisk\n" in result.stdout
    assert "passing over" in result.stderr


def test_steps_aside_when_bazelisk_calls_it(launcher):
    launcher.add_bazel("real")
    result = launcher.run("info", BAZEL_REAL=str(launcher.path / "real"))
    assert _arguments(result) == ["info"]


def test_from_any_folder_and_through_a_link(launcher, tmp_path):
    launcher.add_bazel()
    link = tmp_path / "link"
    link.symlink_to(launcher.root / "tools/bazel")
    for folder in ("/", launcher.home):
        result = launcher.run("info", cwd=folder, program=link)
        assert _arguments(result)[1:] == ["info"], result.stderr
        assert f"cwd={launcher.root}\ncaller={folder}\n" in result.stdout


def test_within_the_repository_it_stays_where_it_is(launcher):
    launcher.add_bazel()
    result = launcher.run("info", cwd=launcher.root / "tools", KPT_WORKING_DIRECTORY="/stale")
    assert f"cwd={launcher.root}/tools\ncaller=\n" in result.stdout


def test_keeps_its_cache_where_it_should(launcher):
    launcher.add_bazel()
    launcher.run("info")
    rc = launcher.home / ".cache/kpt/bazelrc"
    assert f"--disk_cache={launcher.home}/.cache/kpt/disk" in rc.read_text()
    assert f"--output_user_root={launcher.home}/.cache/kpt/output" in rc.read_text()
    elsewhere = launcher.home / "elsewhere"
    launcher.run("info", XDG_CACHE_HOME=str(elsewhere))
    assert (elsewhere / "kpt/bazelrc").exists()


def test_without_home_it_asks_the_user_database(launcher):
    launcher.add_bazel()
    (launcher.path / "getent").unlink()
    _script(launcher.path / "getent", f'#!/bin/bash\necho "u:x:1:1::{launcher.home}:/bin/sh"\n')
    result = launcher.run("info", HOME=None)
    assert result.returncode == 0, result.stderr
    assert (launcher.home / ".cache/kpt/bazelrc").exists()
    assert "home=/" in result.stdout


def test_refuses_a_cache_under_tmp(launcher):
    launcher.add_bazel()
    with_tmp = launcher.run("info", XDG_CACHE_HOME="/tmp/kpt-launcher-test")
    shutil.rmtree("/tmp/kpt-launcher-test", ignore_errors=True)
    assert with_tmp.returncode == 1
    assert "under /tmp" in with_tmp.stderr


@pytest.mark.parametrize(
    ("program", "message"),
    [("g++", "no C++ compiler"), ("python3", "no 'python3'"), ("flock", "'flock' is missing")],
)
def test_says_what_is_missing(launcher, program, message):
    (launcher.path / program).unlink()
    launcher.add_bootstrap()
    result = launcher.run("info")
    assert result.returncode == 1
    assert message in result.stderr


def test_installs_once_then_uses_what_it_has(launcher):
    launcher.add_bootstrap()
    for _ in range(2):
        result = launcher.run("info")
        assert "program=private" in result.stdout, result.stderr
    assert launcher.log.read_text() == "run\n"


def _wait_for_start(launcher, process):
    while not launcher.log.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def test_two_at_the_same_time_install_once(launcher):
    launcher.add_bootstrap()
    launcher.hold.touch()
    first = launcher.start("info")
    _wait_for_start(launcher, first)
    second = launcher.start("info")
    assert "waiting" in second.stderr.readline()
    launcher.hold.unlink()
    for process in (first, second):
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert "program=private" in out
    assert launcher.log.read_text() == "run\n"


def test_a_killed_launcher_leaves_no_lock(launcher):
    launcher.add_bootstrap()
    launcher.hold.touch()
    first = launcher.start("info")
    _wait_for_start(launcher, first)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    launcher.hold.unlink()
    assert "program=private" in launcher.run("info").stdout
    assert launcher.log.read_text() == "run\n" * 2


# The real bootstrap, up to where it would download.


class Bootstrap:
    """get_bazel.sh with stand-ins for the programs of the system."""

    def __init__(self, launcher):
        self.launcher = launcher
        self.prefix = launcher.home / "bazel"
        (launcher.path / "dpkg").symlink_to("/bin/true")
        self.apt("exit 1")

    def apt(self, body):
        _script(
            self.launcher.path / "apt-get",
            '#!/bin/bash\nif [ "$1" = indextargets ]; then\n'
            '  echo "Debian x mirror:/"; echo "Ubuntu x mirror:/"; exit 0\nfi\n' + body + "\n",
        )

    def start(self, **changes):
        script = self.launcher.root / "tools/bootstrap/get_bazel.sh"
        return self.launcher.start(str(self.prefix), program=script, **changes)

    def run(self, **changes):
        process = self.start(**changes)
        _, err = process.communicate(timeout=60)
        return process.returncode, err

    def leftovers(self):
        return sorted(p.name for p in self.launcher.home.iterdir())


@pytest.fixture
def bootstrap(launcher):
    if not any(pathlib.Path("/usr/share/keyrings").glob("*-archive-keyring.*")):
        pytest.skip("this system has no archive keys")
    return Bootstrap(launcher)


def test_bootstrap_says_what_is_missing(bootstrap):
    path = bootstrap.launcher.path
    _script(path / "python3", '#!/bin/bash\n[ "$2" != pip ]\n')
    status, message = bootstrap.run()
    assert (status, "has no pip" in message) == (1, True), message
    _script(path / "python3", "#!/bin/bash\nexit 0\n")
    _script(path / "apt-get", "#!/bin/bash\nexit 0\n")
    status, message = bootstrap.run()
    assert (status, "apt-get update" in message) == (1, True), message
    (path / "apt-get").unlink()
    status, message = bootstrap.run()
    assert (status, "unsupported system" in message) == (1, True), message
    assert "put Bazel 7.4 to 8 (or Bazelisk) on PATH" in message
    (path / "uname").unlink()
    _script(path / "uname", '#!/bin/bash\n[ "$1" = -m ] && echo aarch64 || echo Linux\n')
    status, message = bootstrap.run()
    assert (status, "unsupported system Linux-aarch64" in message) == (1, True), message
    assert bootstrap.leftovers() == []


def test_a_system_that_is_neither_debian_nor_ubuntu(bootstrap):
    status, message = bootstrap.run(KPT_APT_FAMILY="fedora")
    assert (status, "unsupported system" in message) == (1, True), message


def test_a_failed_bootstrap_leaves_nothing(bootstrap):
    status, message = bootstrap.run()
    assert status == 1
    assert "package lists" in message
    assert bootstrap.leftovers() == []


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_bootstrap_leaves_nothing(bootstrap, how):
    # Builtins: while it waits for a command that does not die of it, bash would forget SIGINT.
    bootstrap.apt(': >"$HOME/started"; exec sleep 60')
    process = bootstrap.start()
    while not (bootstrap.launcher.home / "started").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    assert bootstrap.leftovers() != ["started"]
    os.killpg(process.pid, how)
    process.communicate(timeout=30)
    assert process.returncode != 0
    assert bootstrap.leftovers() == ["started"]


def test_what_a_killed_bootstrap_leaves_goes_with_the_next(bootstrap):
    # Builtins: while it waits for a command that does not die of it, bash would forget SIGINT.
    bootstrap.apt(': >"$HOME/started"; exec sleep 60')
    process = bootstrap.start()
    while not (bootstrap.launcher.home / "started").exists():
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=30)
    assert len(bootstrap.leftovers()) == 2
    bootstrap.apt("exit 1")
    bootstrap.run()
    assert bootstrap.leftovers() == ["started"]

"""Writes the lock files under third_party/pypi from the .in files beside them.

    python3 -m venv /path/to/venv && /path/to/venv/bin/pip install -U pip
    /path/to/venv/bin/python tools/lock.py [NAME...]

NAME is an .in file without its suffix ("torch" and "packages" go together); without names, all of
them. pip resolves each closure once for every supported Python, from the package index alone (local
wheel folders of this machine are switched off), and reports the file it chose; nothing is
installed. Packages that differ between Pythons get a marker. torch is resolved together with
everything that lives beside it, then the closure is split in three:

  torch.lock     torch and what every build of it needs
  cuda.lock      what only the index's CUDA build of torch needs
  packages.lock  all others

A `--hash=` in an .in file is kept beside those of the index: another build of the same version.
Only the standard library is used, because this runs before there is anything else.
"""

import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

_PYTHONS = ("3.10", "3.11", "3.12", "3.13")
_FOLDER = pathlib.Path(__file__).resolve().parents[1] / "third_party" / "pypi"
_CUDA = re.compile(r"^(nvidia-|cuda-|triton$)")
_HEADER = "# Written by tools/lock.py from {}; do not edit.\n"

Resolved = dict[str, dict[str, tuple[str, str]]]  # name -> python -> (version, sha256)


def _normalize(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _read_inputs(names: list[str]) -> tuple[list[str], dict[str, list[str]], bool]:
    """Returns requirements, extra hashes per package and whether closures are wanted."""
    requirements, hashes, closure = [], {}, True
    for name in names:
        for line in (_FOLDER / f"{name}.in").read_text().splitlines():
            words = line.split("#")[0].split()
            if not words:
                continue
            requirements.append(words[0])
            closure = closure and "--no-deps" not in words
            package = _normalize(re.split(r"[=<>!~\[]", words[0])[0])
            hashes[package] = [w.split(":")[1] for w in words if w.startswith("--hash=sha256:")]
    return requirements, hashes, closure


def _resolve(requirements: list[str], closure: bool) -> Resolved:
    environment = {k: v for k, v in os.environ.items() if k != "PIP_FIND_LINKS"}
    environment["PIP_CONFIG_FILE"] = os.devnull
    resolved: Resolved = {}
    for python in _PYTHONS:
        with tempfile.TemporaryDirectory() as folder:
            report = pathlib.Path(folder) / "report.json"
            command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run"]
            command += ["--ignore-installed", "--only-binary=:all:", "--python-version", python]
            command += ["--target", folder, "--report", str(report)]
            command += [] if closure else ["--no-deps"]
            subprocess.run(command + requirements, check=True, env=environment)
            for item in json.loads(report.read_text())["install"]:
                name = _normalize(item["metadata"]["name"])
                digest = item["download_info"]["archive_info"]["hashes"]["sha256"]
                resolved.setdefault(name, {})[python] = (item["metadata"]["version"], digest)
    return resolved


def _torch_closure(requirements: list[str], python: str) -> set[str]:
    torch = [r for r in requirements if r.startswith("torch==")]
    global _PYTHONS
    saved, _PYTHONS = _PYTHONS, (python,)
    try:
        return set(_resolve(torch, True))
    finally:
        _PYTHONS = saved


def _marker(pythons: list[str]) -> str:
    if len(pythons) == len(_PYTHONS):
        return ""
    return " ; " + " or ".join(f'python_version == "{p}"' for p in pythons)


def _write(out: str, source: str, resolved: Resolved, extra: dict[str, list[str]]) -> None:
    lines = []
    for name in sorted(resolved):
        versions: dict[str, list[str]] = {}
        for python, (version, _) in resolved[name].items():
            versions.setdefault(version, []).append(python)
        for version, pythons in versions.items():
            digests = {resolved[name][p][1] for p in pythons} | set(extra.get(name, []))
            line = f"{name}=={version}{_marker(pythons)}"
            lines.append(line + "".join(f" \\\n    --hash=sha256:{d}" for d in sorted(digests)))
    (_FOLDER / f"{out}.lock").write_text(_HEADER.format(source) + "\n".join(lines) + "\n")
    print(f"{out}.lock: {len(resolved)} packages", flush=True)


def main(names: list[str]) -> None:
    for name in ("nanobind", "nanobind_backend", "dlpack", "minilm", "lint", "cuda_toolkit"):
        if not names or name in names:
            requirements, extra, closure = _read_inputs([name])
            _write(name, f"{name}.in", _resolve(requirements, closure), extra)
    if names and not {"torch", "packages"} & set(names):
        return
    requirements, extra, closure = _read_inputs(["torch", "packages"])
    resolved = _resolve(requirements, closure)
    torch: set[str] = set()
    for python in _PYTHONS:
        torch |= _torch_closure(requirements, python)
    cuda = {name for name in torch if _CUDA.match(name)}
    parts = {"torch": torch - cuda, "cuda": cuda, "packages": set(resolved) - torch}
    for out, names in parts.items():
        part = {name: resolved[name] for name in names}
        _write(out, "torch.in and packages.in", part, extra)


if __name__ == "__main__":
    main(sys.argv[1:])

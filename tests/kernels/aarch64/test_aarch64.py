"""The portable kernels on another processor: compiled for aarch64, their own tests run in qemu.

Optional: needs g++-aarch64-linux-gnu and qemu-user (Debian packages).
"""

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
LIBRARIES = "/usr/aarch64-linux-gnu"
ROOT = Path(__file__).resolve().parents[3] if "TEST_SRCDIR" not in os.environ else Path.cwd()
FLAGS = [
    "-O1",  # most of the time goes into compiling
    "-std=c++17",
    "-fno-exceptions",
    "-fno-rtti",
    "-fno-trapping-math",
    "-fno-math-errno",
    "-DHWY_COMPILE_ONLY_STATIC",
    "-DKPT_SIMD_NS=baseline",
]
KERNELS = {"attention": ("*decode*", "*append*")}
"""By family: its files that are compiled, and whose tests run."""
X86 = ("_avx2.cc", "_avx512.cc", "_avx512_bf16.cc", "_amx.cc")


def _highway():
    """The folder of the Highway headers: what Bazel names, else KPT_HIGHWAY."""
    for name in os.environ.get("KPT_HIGHWAY", "").split():
        if name.endswith("hwy/highway.h"):
            return Path(name).absolute().parents[1]
        if (Path(name) / "hwy/highway.h").is_file():
            return Path(name)
    pytest.skip("KPT_HIGHWAY does not name the Highway headers (Bazel sets it)")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """Compiles sources of the repository; gives the objects, each made once."""
    for program in (COMPILER, EMULATOR):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed: nothing was tried on aarch64")
    folder, done = tmp_path_factory.mktemp("aarch64"), {}
    includes = [f"-I{ROOT}/tests/kernels/aarch64", f"-I{ROOT}", f"-I{_highway()}"]

    def compile(source):
        target = folder / (str(source.relative_to(ROOT)).replace("/", "-") + ".o")
        command = [COMPILER, *FLAGS, *includes, "-c", str(source), "-o", str(target)]
        return subprocess.run(command, capture_output=True, text=True, check=False), target

    def objects(sources):
        missing = [s for s in sources if s not in done]
        with ThreadPoolExecutor(2) as pool:
            for source, (result, target) in zip(missing, pool.map(compile, missing), strict=True):
                assert result.returncode == 0, f"{source}:\n{result.stderr[-3000:]}"
                done[source] = target
        return [str(done[s]) for s in sources]

    return objects


def _sources(family, patterns=("*",)):
    folders = [ROOT / "kernels" / family, ROOT / "kernels" / family / "cpu"]
    found = {f for d in folders for pattern in patterns for f in d.glob(f"{pattern}.cc")}
    ours = sorted(f for f in found if not f.name.endswith(X86))
    assert ours, f"no source of {family} in {ROOT}"
    return ours


@pytest.mark.parametrize("family", KERNELS)
def test_kernels(family, compiled, tmp_path):
    kernels = compiled(_sources("base") + _sources(family, KERNELS[family]))
    folder = ROOT / "tests/kernels" / family
    tests = sorted(t for pattern in KERNELS[family] for t in folder.glob(f"{pattern}_test.cc"))
    assert tests
    for test in tests:
        program = tmp_path / test.stem
        link = [COMPILER, *compiled([test]), *kernels, "-ldl", "-lpthread", "-o", str(program)]
        linked = subprocess.run(link, capture_output=True, text=True, check=False)
        assert linked.returncode == 0, linked.stderr[-3000:]
        run = [EMULATOR, "-L", LIBRARIES, str(program)]
        result = subprocess.run(run, capture_output=True, text=True, check=False, timeout=250)
        assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-1000:]
        assert result.stdout.count(": ok") >= 2, result.stdout

"""Compilers as services: real binaries or a typed error, through a bounded cache."""

import multiprocessing
import os
import shutil
import stat

import pytest

from kernel_pytorch.backends import ConfigurationError, KernelCompilationError, ToolNotFoundError
from kernel_pytorch.backends.amd import ROCmCompiler
from kernel_pytorch.backends.amd.amd_exceptions import AMDOptimizationError, HIPCompilationError
from kernel_pytorch.backends.compile_cache import CompileCache, default_cache_folder
from kernel_pytorch.backends.compilers import HIPCC, NVCC, OCLOC, CompilerService
from kernel_pytorch.backends.intel import OclocCompiler
from kernel_pytorch.backends.intel.intel_exceptions import SYCLCompilationError
from kernel_pytorch.backends.lru_cache import LRUCache
from kernel_pytorch.backends.nvidia import CUDACompiler
from kernel_pytorch.core.config import AMDArchitecture, AMDConfig

KERNEL = 'extern "C" __global__ void scale(float* x) { x[threadIdx.x] *= 2.0f; }\n'

# Copies its source to what is after -o (or into -out_dir), and refuses a source with "error" in it.
_FAKE = """#!/bin/sh
if [ "$1" = --version ]; then echo "fake 1.0"; exit 0; fi
echo run >> "$FAKE_RUNS"
out=; source=
while [ $# -gt 0 ]; do
  case "$1" in
    -o) out="$2"; shift;;
    -out_dir) out="$2/kernel.bin"; shift;;
    *.cu|*.hip|*.cl) source="$1";;
  esac
  shift
done
if grep -q error "$source"; then echo "$source:1: error: no such thing" >&2; exit 1; fi
{ echo BINARY; cat "$source"; } > "$out"
"""


@pytest.fixture
def fake_tools(tmp_path, monkeypatch):
    """Compilers that only copy; returns how often one of them ran."""
    folder = tmp_path / "tools"
    folder.mkdir()
    for name in ("nvcc", "hipcc", "ocloc"):
        (folder / name).write_text(_FAKE)
        (folder / name).chmod(0o755)
    runs = tmp_path / "runs"
    runs.touch()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_RUNS", str(runs))
    return lambda: len(runs.read_text().splitlines())


@pytest.fixture
def no_tools(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    for variable in ("CUDA_HOME", "CUDA_PATH", "ROCM_HOME", "ROCM_PATH", "HIP_PATH", "ONEAPI_ROOT"):
        monkeypatch.delenv(variable, raising=False)
    found = [
        t.name
        for t in (NVCC, HIPCC, OCLOC)
        if any(shutil.which(t.name, path=f"{f}/bin") for f in t.folders if not f.startswith("$"))
    ]
    if found:
        pytest.skip(f"installed outside PATH: {found}")


def test_absent_compilers_say_how_to_get_them(no_tools, tmp_path):
    config = AMDConfig(hip_compiler_cache_dir=str(tmp_path / "hip"))
    for compiler, command in (
        (CUDACompiler(cache=CompileCache(tmp_path / "c")), "pip install nvidia-cuda-nvcc"),
        (ROCmCompiler(config), "apt-get install hipcc"),
        (OclocCompiler(CompileCache(tmp_path / "o")), "apt-get install intel-ocloc"),
    ):
        with pytest.raises(ToolNotFoundError, match=command):
            compiler.compile_kernel(KERNEL, "scale")
    assert not (tmp_path / "hip").exists()


def test_a_second_compilation_comes_from_the_cache(fake_tools, tmp_path):
    config = AMDConfig(
        architecture=AMDArchitecture.CDNA3, hip_compiler_cache_dir=str(tmp_path / "hip")
    )
    compiler = ROCmCompiler(config)
    first = compiler.compile_kernel(KERNEL, "scale")
    second = compiler.compile_kernel(KERNEL, "scale")
    assert first.binary == second.binary == b"BINARY\n" + KERNEL.encode()
    assert first.compile_time_ms > 0 == second.compile_time_ms and fake_tools() == 1
    assert first.architecture is AMDArchitecture.CDNA3 and "-O3" in first.optimization_flags
    # On disk: another object, and so another process, finds it.
    assert ROCmCompiler(config).compile_kernel(KERNEL, "scale").binary == first.binary
    assert fake_tools() == 1
    compiler.compile_kernel(KERNEL, "scale", "debug")
    compiler.compile_kernel(KERNEL + "\n", "scale")
    stats = compiler.get_compilation_stats()
    assert fake_tools() == 3 and stats["cache_size"] == 3 and stats["cache_hits"] == 1
    compiler.clear_cache()
    assert compiler.get_compilation_stats()["cache_size"] == 0


def test_refused_sources_show_what_the_compiler_said(fake_tools, tmp_path):
    config = AMDConfig(hip_compiler_cache_dir=str(tmp_path / "hip"))
    with pytest.raises(HIPCompilationError, match="bad.hip:1: error: no such thing"):
        ROCmCompiler(config).compile_kernel("error", "bad")
    with pytest.raises(SYCLCompilationError, match="no such thing"):
        OclocCompiler(CompileCache(tmp_path / "o")).compile_kernel("error", "bad", "bmg")
    with pytest.raises(AMDOptimizationError, match="unknown optimization level 'turbo'"):
        ROCmCompiler(config).compile_kernel(KERNEL, "scale", "turbo")
    assert OclocCompiler(CompileCache(tmp_path / "o")).compile_kernel("x", "k", "bmg").binary


@pytest.mark.parametrize(
    ("source", "name", "architecture", "match"),
    [
        ("", "k", "sm_90", "source"),
        (None, "k", "sm_90", "source"),
        ("x", "../k", "sm_90", "name"),
        ("x", "k", "sm_90 -o /etc/passwd", "architecture"),
        ("x", "k", "gfx942", "architecture"),
    ],
)
def test_bad_requests(source, name, architecture, match, tmp_path):
    with pytest.raises(ConfigurationError, match=match):
        CompilerService(NVCC, CompileCache(tmp_path)).compile(source, name, architecture)


@pytest.mark.parametrize(
    ("architecture", "target"), [("cdna2", "gfx90a"), ("cdna3", "gfx942"), ("rdna3", "gfx1100")]
)
def test_targets_of_amd(architecture, target, tmp_path):
    config = AMDConfig(architecture=architecture, hip_compiler_cache_dir=str(tmp_path))
    assert ROCmCompiler(config)._get_gpu_target() == target


def test_nvcc_for_real(tmp_path):
    if shutil.which("nvcc") is None:
        pytest.skip("nvcc is not installed")
    compiler = CUDACompiler(cache=CompileCache(tmp_path))
    made = compiler.compile_kernel(KERNEL, "scale", "sm_90")
    assert made.binary.startswith(b"\x7fELF") and b"scale" in made.binary
    assert compiler.compile_kernel(KERNEL, "scale", "sm_90").cached
    with pytest.raises(KernelCompilationError, match="nvcc: kernel 'bad'.*identifier"):
        compiler.compile_kernel("__global__ void f() { nothing(); }", "bad", "sm_90")


def test_the_cache_is_bounded_and_forgets_what_was_not_used(tmp_path):
    cache = CompileCache(tmp_path, max_entries=3)
    for i in range(3):
        cache.put(f"k{i}", bytes([i]) * 10)
        os.utime(tmp_path / f"k{i}.bin", ns=(i, i))
    assert cache.get("k0") == b"\0" * 10  # used: k1 is now the oldest
    cache.put("k3", b"3")
    assert len(cache) == 3 and cache.get("k1") is None and cache.get("k0") is not None
    stats = cache.get_stats()
    assert (stats["hits"], stats["misses"], stats["evictions"]) == (2, 1, 1)
    small = CompileCache(tmp_path, max_bytes=100)
    small.put("big", b"x" * 1000)
    assert small.get("big") == b"x" * 1000 and len(small) == 1


def test_damaged_entries_are_removed(tmp_path):
    cache = CompileCache(tmp_path)
    cache.put("k", b"binary")
    (tmp_path / "k.bin").write_bytes(b"garbage")
    with pytest.warns(UserWarning, match="damaged"):
        assert cache.get("k") is None
    assert len(cache) == 0


def test_the_folder_is_private_and_ours(tmp_path, monkeypatch):
    cache = CompileCache(tmp_path / "c")
    cache.put("k", b"binary")
    assert stat.S_IMODE((tmp_path / "c").stat().st_mode) == 0o700
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(ConfigurationError, match="belongs to another user"):
        cache.get("k")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_folder() == tmp_path / "kernel_pytorch" / "compile"
    with pytest.raises(ConfigurationError, match="max_entries"):
        CompileCache(tmp_path, max_entries=0)


def _writer(folder, number):
    cache = CompileCache(folder, max_entries=8)
    for i in range(20):
        cache.put(f"k{(number + i) % 12}", f"{(number + i) % 12}".encode() * 1000)


def test_processes_share_the_cache(tmp_path):
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_writer, args=(tmp_path, n)) for n in range(2)]
    for w in writers:
        w.start()
    for w in writers:
        w.join(120)
        assert w.exitcode == 0
    cache = CompileCache(tmp_path, max_entries=8)
    assert 0 < len(cache) <= 8
    for i in range(12):
        assert cache.get(f"k{i}") in (None, str(i).encode() * 1000)
    assert not list(tmp_path.glob("*.new"))


def test_keys_do_not_run_together():
    assert CompileCache.key("ab", "c") != CompileCache.key("a", "bc")


def test_lru_cache():
    cache = LRUCache(2)
    cache.set("a", 1), cache.set("b", 2)
    assert cache.get("a") == 1
    cache.set("c", 3)
    assert cache.get("b") is None and len(cache) == 2 and "a" in cache
    assert cache.get_stats() == {
        "hits": 1,
        "misses": 1,
        "evictions": 1,
        "size": 2,
        "max_size": 2,
        "hit_rate": 0.5,
    }
    assert cache.keys() == ["a", "c"]
    cache.clear()
    assert len(cache) == 0 and cache.get("a", "gone") == "gone"
    with pytest.raises(ConfigurationError, match="max_size"):
        LRUCache(0)

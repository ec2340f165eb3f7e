"""Vendors' compilers as a service: source in, a device binary out, through a bounded cache.

Nothing is simulated: without the compiler there is no binary but a
:class:`~kernel_pytorch.backends.base_exceptions.ToolNotFoundError` with the command that installs
it.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kernel_pytorch.backends.base_exceptions import (
    ConfigurationError,
    KernelCompilationError,
    ToolNotFoundError,
)
from kernel_pytorch.backends.compile_cache import CompileCache

__all__ = ["HIPCC", "NVCC", "OCLOC", "CompiledBinary", "CompilerService", "Tool"]

_NAME = re.compile(r"[A-Za-z_]\w*")
_SHOWN_LINES = 30
_TIMEOUT = 600.0


@dataclass(frozen=True, kw_only=True)
class Tool:
    """A compiler: where to look for it, how to call it, how to get it."""

    name: str
    install: str
    folders: tuple[str, ...]
    """Environment variables (with $) and folders whose bin/ may hold it, after PATH."""
    suffix: str
    """Of a source file."""
    arguments: Callable[[Path, Path, str, Sequence[str]], list[str]]
    """(source file, output folder, architecture, flags) -> arguments."""
    architecture: re.Pattern[str]
    """What an architecture's name looks like."""

    def find(self) -> Path:
        """The program; ToolNotFoundError without one."""
        found = shutil.which(self.name)
        if found is None:
            for folder in self.folders:
                base = os.environ.get(folder[1:], "") if folder.startswith("$") else folder
                found = found or (shutil.which(self.name, path=f"{base}/bin") if base else None)
        if found is None:
            raise ToolNotFoundError(self.name, self.install)
        return Path(found)


NVCC = Tool(
    name="nvcc",
    install="pip install nvidia-cuda-nvcc nvidia-nvvm nvidia-cuda-crt nvidia-cuda-runtime "
    "nvidia-cuda-cccl, or NVIDIA's CUDA Toolkit",
    folders=("$CUDA_HOME", "$CUDA_PATH", "/usr/local/cuda"),
    suffix=".cu",
    arguments=lambda source, out, arch, flags: [
        "-cubin",
        f"-arch={arch}",
        *flags,
        str(source),
        "-o",
        str(out / "kernel.cubin"),
    ],
    architecture=re.compile(r"sm_\d+[af]?"),
)
HIPCC = Tool(
    name="hipcc",
    install="apt-get install hipcc, or AMD's ROCm",
    folders=("$ROCM_HOME", "$ROCM_PATH", "$HIP_PATH", "/opt/rocm"),
    suffix=".hip",
    arguments=lambda source, out, arch, flags: [
        "--genco",
        f"--offload-arch={arch}",
        *flags,
        str(source),
        "-o",
        str(out / "kernel.hsaco"),
    ],
    architecture=re.compile(r"gfx[0-9a-f]+(:[\w+:-]+)?"),
)
OCLOC = Tool(
    name="ocloc",
    install="apt-get install intel-ocloc",
    folders=("$ONEAPI_ROOT", "/opt/intel/oneapi/ocloc/latest"),
    suffix=".cl",
    arguments=lambda source, out, arch, flags: [
        "compile",
        "-file",
        str(source),
        "-device",
        arch,
        "-out_dir",
        str(out),
        *(["-options", " ".join(flags)] if flags else []),
    ],
    architecture=re.compile(r"[a-z][\w.-]*"),
)


@dataclass(frozen=True, kw_only=True)
class CompiledBinary:
    """What a compiler made."""

    name: str
    source_hash: str
    """SHA-256 of the source."""
    binary: bytes
    architecture: str
    flags: tuple[str, ...]
    seconds: float
    """The compiler's time; 0 when the binary came from the cache."""
    cached: bool


class CompilerService:
    """Compiles for one vendor. Flags, source, architecture and the compiler's own version make the
    address of a binary in the cache."""

    def __init__(self, tool: Tool, cache: CompileCache | None = None) -> None:
        self.tool = tool
        self.cache = CompileCache() if cache is None else cache
        self.compilations = 0
        """How often the compiler ran and was content."""

    @functools.cached_property
    def version(self) -> str:
        """What the compiler says of itself. ToolNotFoundError without one."""
        program = self.tool.find()
        answer = subprocess.run(
            [str(program), "--version"], capture_output=True, text=True, timeout=60, check=False
        )
        return f"{program}\n{answer.stdout}{answer.stderr}"

    def compile(
        self, source: str, name: str, architecture: str, flags: Sequence[str] = ("-O3",)
    ) -> CompiledBinary:
        """``source`` compiled for ``architecture`` ("sm_90", "gfx942", "pvc").

        Raises ConfigurationError for an empty source, a name that is no identifier or an odd
        architecture, ToolNotFoundError without the compiler, KernelCompilationError with what the
        compiler said when it refuses the source or takes longer than ten minutes.
        """
        if not isinstance(source, str) or not source.strip():
            raise ConfigurationError("source", source, "expected the text of a kernel")
        if not _NAME.fullmatch(name):
            raise ConfigurationError("name", name, "expected an identifier")
        if not self.tool.architecture.fullmatch(architecture):
            raise ConfigurationError(
                "architecture",
                architecture,
                f"{self.tool.name} takes names like {self.tool.architecture.pattern}",
            )
        key = CompileCache.key(self.tool.name, self.version, architecture, *flags, "", source)
        found = self.cache.get(key)
        cached, seconds = found is not None, 0.0
        if found is None:
            started = time.perf_counter()
            found = self._run(source, name, architecture, flags)
            seconds = time.perf_counter() - started
            self.compilations += 1
            self.cache.put(key, found)
        return CompiledBinary(
            name=name,
            source_hash=CompileCache.key(source),
            binary=found,
            architecture=architecture,
            flags=tuple(flags),
            seconds=seconds,
            cached=cached,
        )

    def _run(self, source: str, name: str, architecture: str, flags: Sequence[str]) -> bytes:
        with tempfile.TemporaryDirectory(prefix="kpt_compile_") as folder:
            file, out = Path(folder, name + self.tool.suffix), Path(folder, "out")
            file.write_text(source, encoding="utf-8")
            out.mkdir()
            command = [
                str(self.tool.find()),
                *self.tool.arguments(file, out, architecture, flags),
            ]
            try:
                answer = subprocess.run(
                    command, capture_output=True, text=True, timeout=_TIMEOUT, check=False
                )
            except subprocess.TimeoutExpired as error:
                raise KernelCompilationError(
                    name, self.tool.name, f"took longer than {_TIMEOUT:.0f} s"
                ) from error
            made = sorted(p for p in out.iterdir() if p.stat().st_size)
            if answer.returncode != 0 or not made:
                lines = (answer.stderr + answer.stdout).replace(folder + "/", "").splitlines()
                text = "\n".join(lines[:_SHOWN_LINES]) or f"exit status {answer.returncode}"
                raise KernelCompilationError(name, self.tool.name, text)
            # ocloc writes the binary beside intermediate forms; the others write one file.
            final = [p for p in made if p.suffix == ".bin"] or made
            return final[0].read_bytes()

    def get_stats(self) -> dict[str, Any]:
        """compilations of this object, and the cache's counts."""
        return {"compilations": self.compilations, **self.cache.get_stats()}

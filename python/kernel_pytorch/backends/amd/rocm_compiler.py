"""hipcc as a service: HIP C++ in, a code object out, through a bounded cache on disk."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from kernel_pytorch.backends.amd.amd_exceptions import AMDOptimizationError, HIPCompilationError
from kernel_pytorch.backends.base_exceptions import InvalidArchitectureError, KernelCompilationError
from kernel_pytorch.backends.base_types import OptimizationLevel
from kernel_pytorch.backends.compile_cache import CompileCache
from kernel_pytorch.backends.compilers import HIPCC, CompilerService
from kernel_pytorch.backends.lru_cache import LRUCache
from kernel_pytorch.core.config import AMDConfig
from kernel_pytorch.core.enums import AMDArchitecture

__all__ = ["CompiledKernel", "LRUCache", "ROCmCompiler"]

# LLVM's AMDGPU usage guide, Processors: the first of each generation.
_TARGETS = {
    AMDArchitecture.CDNA: "gfx908",
    AMDArchitecture.CDNA2: "gfx90a",
    AMDArchitecture.CDNA3: "gfx942",
    AMDArchitecture.CDNA4: "gfx950",
    AMDArchitecture.RDNA2: "gfx1030",
    AMDArchitecture.RDNA3: "gfx1100",
    AMDArchitecture.RDNA4: "gfx1201",
}
_FLAGS = {
    OptimizationLevel.O0: ("-O0", "-g"),
    OptimizationLevel.O1: ("-O2",),
    OptimizationLevel.O2: ("-O3",),
    OptimizationLevel.O3: ("-O3",),
}


@dataclass
class CompiledKernel:
    """What hipcc made."""

    name: str
    source_hash: str
    binary: bytes
    architecture: AMDArchitecture
    optimization_flags: list[str] = field(default_factory=list)
    compile_time_ms: float = 0.0
    """0 when it came from the cache."""


class ROCmCompiler:
    """Compiles for the configuration's architecture. Without hipcc each compilation raises
    ToolNotFoundError with the command that installs it; what is cached is still served only with
    hipcc, whose version is part of its address."""

    def __init__(self, config: AMDConfig | None = None) -> None:
        self.config = AMDConfig() if config is None else config
        self.service = CompilerService(
            HIPCC,
            CompileCache(self.config.hip_compiler_cache_dir, self.config.hip_compiler_cache_size),
        )

    def _get_gpu_target(self) -> str:
        found = self.config.architecture
        if found not in _TARGETS:
            raise InvalidArchitectureError(found.value, [a.value for a in _TARGETS])
        return _TARGETS[found]

    def compile_kernel(
        self, source: str, kernel_name: str, optimization_level: str | None = None
    ) -> CompiledKernel:
        """``source`` compiled for the configuration's architecture.

        Raises ToolNotFoundError without hipcc, HIPCompilationError with what hipcc said,
        AMDOptimizationError for an unknown level, ConfigurationError for an empty source or a name
        that is no identifier.
        """
        wanted = optimization_level or self.config.optimization_level
        try:
            flags = _FLAGS[OptimizationLevel(wanted)]
        except ValueError as error:
            raise AMDOptimizationError(str(wanted), str(error)) from error
        try:
            made = self.service.compile(source, kernel_name, self._get_gpu_target(), flags)
        except KernelCompilationError as error:
            raise HIPCompilationError(kernel_name, str(error)) from error
        return CompiledKernel(
            name=made.name,
            source_hash=made.source_hash,
            binary=made.binary,
            architecture=self.config.architecture,
            optimization_flags=list(made.flags),
            compile_time_ms=made.seconds * 1e3,
        )

    def clear_cache(self) -> None:
        """Remove all code objects."""
        self.service.cache.clear()

    def get_compilation_stats(self) -> dict[str, Any]:
        """total_compilations, cache_hits, cache_misses, cache_size, and where the cache lies."""
        found = self.service.get_stats()
        return {
            "total_compilations": found["compilations"],
            "cache_hits": found["hits"],
            "cache_misses": found["misses"],
            "cache_evictions": found["evictions"],
            "cache_size": found["size"],
            "cache_bytes": found["bytes"],
            "cache_folder": found["folder"],
        }

"""ocloc as a service: OpenCL C in, a GPU binary out, through a bounded cache."""

from __future__ import annotations

from typing import Any

from kernel_pytorch.backends.base_exceptions import KernelCompilationError
from kernel_pytorch.backends.compile_cache import CompileCache
from kernel_pytorch.backends.compilers import OCLOC, CompiledBinary, CompilerService
from kernel_pytorch.backends.intel.intel_exceptions import SYCLCompilationError

__all__ = ["OclocCompiler"]


class OclocCompiler:
    """Compiles for one of ocloc's devices ("pvc", "bmg", "dg2", "ptl")."""

    def __init__(self, cache: CompileCache | None = None) -> None:
        self.service = CompilerService(OCLOC, cache)

    def compile_kernel(self, source: str, kernel_name: str, device: str = "pvc") -> CompiledBinary:
        """``source`` for ``device``. ToolNotFoundError without ocloc, SYCLCompilationError with
        what it said, ConfigurationError for an empty source or odd names."""
        try:
            return self.service.compile(source, kernel_name, device, ())
        except KernelCompilationError as error:
            raise SYCLCompilationError(str(error), kernel_name) from error

    def get_compilation_stats(self) -> dict[str, Any]:
        """Counts of the compiler and its cache."""
        return self.service.get_stats()

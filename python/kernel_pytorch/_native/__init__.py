"""The one gate to compiled code: loads a module lazily and checks that it is ours."""

from __future__ import annotations

import functools
import importlib
from types import ModuleType

from kernel_pytorch._version import __version__
from kernel_pytorch.core.errors import NativeUnavailableError

__all__ = ["load"]


@functools.cache
def load(backend: str) -> ModuleType:
    """The compiled module of ``backend`` ("cpu" or "cuda").

    Raises :class:`NativeUnavailableError` when it is missing, does not load on this machine, was
    built for another version, or the environment asks for an ISA level that the CPU lacks.
    """
    try:
        module = importlib.import_module(f"kernel_pytorch._native.{backend}")
    except ImportError as error:
        raise NativeUnavailableError(
            f"kernel_pytorch._native.{backend} does not load: {error}"
        ) from error
    if module.__version__ != __version__:
        raise NativeUnavailableError(
            f"kernel_pytorch._native.{backend} is version {module.__version__}, "
            f"but the package is {__version__}; reinstall kernel_pytorch"
        )
    if problem := module.load_error():
        raise NativeUnavailableError(problem)
    return module

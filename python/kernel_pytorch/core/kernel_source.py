"""Where the kernel registry gets its kernels from: the dispatch, which stands above this layer.

``backends`` puts its :class:`KernelSource` here when it registers the operators. The module imports
no torch: importing torch is what makes ``backends`` load.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from kernel_pytorch.core.kernel_registry import KernelMetadata

__all__ = ["ContractOutcome", "KernelSource", "set_source", "source"]


@dataclass(frozen=True, kw_only=True)
class ContractOutcome:
    """How a kernel did in its operator's contract tests."""

    passed: bool
    checked: int = 0
    """Calls that were held to the contract."""
    unserved: list[str] = field(default_factory=list)
    """Cases that it declined (NotImplementedError): the next kernel serves those."""
    message: str = ""
    """What it broke; "" when it passed."""


class KernelSource(Protocol):
    """What the dispatch offers to the registry."""

    def kernels(self) -> list[KernelMetadata]:
        """The native kernels and references of every operator."""

    def check(self, kernel: KernelMetadata) -> ContractOutcome:
        """Runs the contract tests of the kernel's operator on it."""

    def install(self, kernel: KernelMetadata) -> None:
        """Makes ``torch.ops.kpt.<op>`` run the kernel on its devices."""

    def remove(self, kernel: KernelMetadata) -> None:
        """Undoes :meth:`install`."""


_source: KernelSource | None = None


def set_source(found: KernelSource) -> None:
    """Called by ``backends``, once."""
    global _source
    _source = found


def source() -> KernelSource:
    """The dispatch."""
    if _source is None:
        raise RuntimeError("the operators are not registered yet: import torch first")
    return _source

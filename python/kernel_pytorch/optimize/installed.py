"""What optimize changed on a model: everything needed to switch it on, off and back."""

from __future__ import annotations

from dataclasses import dataclass, field

from kernel_pytorch.optimize.attention import AttentionSwitch
from kernel_pytorch.optimize.replacement import Replacement
from kernel_pytorch.optimize.results import Report

__all__ = ["ATTRIBUTE", "Installed"]

ATTRIBUTE = "_kpt_optimized"
"""The attribute of an optimized model that holds its :class:`Installed`."""


@dataclass
class Installed:
    """What optimize changed, all of it: kept on the model for revert."""

    precision: str
    replacements: dict[str, Replacement] = field(default_factory=dict)
    """By module name."""
    switch: AttentionSwitch | None = None
    report: Report | None = None

    def install(self) -> None:
        for replacement in self.replacements.values():
            replacement.install()
        if self.switch is not None:
            self.switch.install()

    def remove(self) -> None:
        if self.switch is not None:
            self.switch.remove()
        for replacement in self.replacements.values():
            replacement.remove()

    def set(self, on: bool) -> None:
        """Install or remove, whatever the state was."""
        self.remove()
        if on:
            self.install()

    @property
    def nbytes(self) -> int:
        return sum(r.nbytes for r in self.replacements.values())

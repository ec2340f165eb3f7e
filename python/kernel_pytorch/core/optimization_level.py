"""How far an optimisation may go: one enumeration for every backend, configuration and command."""

from __future__ import annotations

import difflib
import enum
import warnings

__all__ = ["OptimizationLevel"]


class OptimizationLevel(enum.Enum):
    """O0 to O3; the old words DEBUG, CONSERVATIVE, BALANCED and AGGRESSIVE are the same members.

    What each level does on a backend is the list that its optimizer's
    ``get_available_strategies()`` returns. ``OptimizationLevel("balanced")`` and
    ``OptimizationLevel("o2")`` are ``O2``; anything unknown raises ValueError.
    """

    O0 = "O0"
    """Nothing but the device and the mode (training or evaluation)."""
    O1 = "O1"
    """What leaves the results the same but for rounding."""
    O2 = "O2"
    """Also 16-bit arithmetic where it pays."""
    O3 = "O3"
    """Also 8-bit arithmetic and compilation that takes minutes."""
    DEBUG = O0
    CONSERVATIVE = O1
    BALANCED = O2
    AGGRESSIVE = O3

    @classmethod
    def _missing_(cls, value: object) -> OptimizationLevel:
        known = [*cls.__members__]
        word = str(value).strip().upper()
        if word in cls.__members__:
            return cls.__members__[word]
        near = difflib.get_close_matches(word, known, n=1)
        hint = f"; did you mean {near[0].lower()!r}?" if near else ""
        raise ValueError(
            f"unknown optimization level {value!r}: expected one of "
            f"{', '.join(n if n in ('O0', 'O1', 'O2', 'O3') else n.lower() for n in known)}{hint}"
        )

    @classmethod
    def from_string(cls, text: str) -> OptimizationLevel:
        """``text`` in any case; an unknown one gives O2 as it always did, and a warning that says
        so. What acts on a level takes ``OptimizationLevel(text)``, which raises instead."""
        try:
            return cls(text)
        except ValueError as error:
            warnings.warn(f"{error}; taking O2", UserWarning, stacklevel=2)
            return cls.O2

    @property
    def word(self) -> str:
        """The old word for it: "debug", "conservative", "balanced" or "aggressive"."""
        return {"O0": "debug", "O1": "conservative", "O2": "balanced", "O3": "aggressive"}[
            self.value
        ]

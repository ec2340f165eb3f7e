"""A line that says what is being done, for a person who waits longer than two seconds."""

from __future__ import annotations

import sys
import time
from typing import Any

__all__ = ["Progress"]

_PATIENCE = 2.0


class Progress:
    """Context manager; :meth:`say` shows its text on a terminal's stderr, after two seconds."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._status: Any = None

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exc_info: object) -> None:
        if self._status is not None:
            self._status.stop()

    def say(self, text: str) -> None:
        """What is being done now."""
        elapsed = time.perf_counter() - self._started
        if elapsed < _PATIENCE or not sys.stderr.isatty():
            return
        shown = f"optimizing, {elapsed:.0f} s: {text}"
        if self._status is None:
            from rich.console import Console

            self._status = Console(stderr=True).status(shown)
            self._status.start()
        else:
            self._status.update(shown)

"""A line that says what is being done, for a person who waits longer than two seconds."""

from __future__ import annotations

import sys
import time
from typing import Any

__all__ = ["Progress"]

_PATIENCE = 2.0


class Progress:
    """Context manager; :meth:`say` shows its text on stderr, from two seconds on.

    ``shown``: None for one changing line where stderr is a terminal and nothing elsewhere, True for
    plain lines where it is none, False for silence.
    """

    def __init__(self, shown: bool | None = None) -> None:
        self._shown = shown
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
        terminal = sys.stderr is not None and sys.stderr.isatty()
        if elapsed < _PATIENCE or self._shown is False or not (terminal or self._shown):
            return
        line = f"optimizing, {elapsed:.0f} s: {text}"
        if not terminal:
            print(line, file=sys.stderr, flush=True)
        elif self._status is None:
            from rich.console import Console

            self._status = Console(stderr=True).status(line, refresh_per_second=2)
            self._status.start()
        else:
            self._status.update(line)

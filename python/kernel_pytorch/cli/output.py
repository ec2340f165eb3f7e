"""Where a command's output goes: results to stdout, progress and warnings to stderr, files whole.

Tables fit the terminal, or 120 columns (or ``COLUMNS``) in a pipe; colours obey ``NO_COLOR``.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console
from rich.text import Text

from kernel_pytorch.cli.command import STDOUT
from kernel_pytorch.cli.exits import CliError, Exit

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Output", "Progress", "usage_errors"]

_PIPE_WIDTH = 120
_PATIENCE = 2.0
_PIPE_INTERVAL = 10.0


class _Console(Console):
    def on_broken_pipe(self) -> None:
        # rich would exit with 1 here; the command decides.
        raise BrokenPipeError


def _console(file: TextIO) -> Console:
    known = file.isatty() or "COLUMNS" in os.environ
    return _Console(file=file, width=None if known else _PIPE_WIDTH, highlight=False)


class Output:
    """One command's output."""

    def __init__(self, json: str | None = None, **files: Path | None) -> None:
        """``json`` as :data:`kernel_pytorch.cli.command.Json`; ``files`` are further files the
        command is to write, by option name: that they can be is checked now, not after minutes.

        Raises CliError when a file cannot be written.
        """
        self.json_only = json == STDOUT
        self._json_file = None if json in (None, STDOUT) else Path(json)
        for name, path in {"json": self._json_file, **files}.items():
            if path is not None:
                _check_writable(path, f"--{name}")

    @property
    def out(self) -> Console:
        """Results for people; silent when JSON goes to stdout."""
        console = _console(sys.stdout)
        console.quiet = self.json_only
        return console

    @property
    def err(self) -> Console:
        """Progress and warnings."""
        return _console(sys.stderr)

    def say(self, text: str) -> None:
        """A line on stderr about what is being done or was done."""
        self.err.print(text, markup=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        """A warning on stderr."""
        self.err.print(f"warning: {text}", style="yellow", markup=False, soft_wrap=True)

    def finish(self, data: Any) -> None:
        """Writes the JSON of ``data`` where the user wants it, if at all."""
        if self.json_only:
            print(json.dumps(data, indent=2), flush=True)
        elif self._json_file is not None:
            self.write(self._json_file, json.dumps(data, indent=2) + "\n")

    def write(self, path: Path, text: str) -> None:
        """Writes a file whole or not at all, and says so. Raises CliError when that fails."""
        _write(path, text)
        self.say(f"wrote {path}")


def _check_writable(path: Path, option: str) -> None:
    folder = path.parent
    problem = ""
    if path.is_dir():
        problem = "is a folder, not a file"
    elif path.exists() and not path.is_file():  # a device or a pipe, written in place
        problem = "" if os.access(path, os.W_OK) else "no permission to write it"
    elif not folder.is_dir():
        problem = f"the folder {folder} does not exist"
    elif not os.access(folder, os.W_OK):
        problem = f"no permission to write in {folder}"
    if problem:
        raise CliError(f"{option} {path}: {problem}", Exit.CANNOT_WRITE)


def _write(path: Path, text: str) -> None:
    partial: str | None = None
    path = path.resolve()  # a link stays a link
    try:
        if path.exists() and not path.is_file():  # a device or a pipe
            path.write_text(text, encoding="utf-8")
            return
        descriptor, partial = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(partial, 0o666 & ~umask)
        os.replace(partial, path)
    except BaseException as error:
        if partial is not None:
            with contextlib.suppress(OSError):
                os.unlink(partial)
        if isinstance(error, OSError):
            raise CliError(f"{path}: cannot be written: {error}", Exit.CANNOT_WRITE) from error
        raise


class Progress:
    """Context manager that shows, after two seconds, what is being done, on stderr.

    A terminal gets one line that changes; a pipe gets a line now and then.
    """

    def __init__(self, output: Output, text: str) -> None:
        self._console = output.err
        self._text = text
        self._lock = threading.Lock()
        # A timer, because the first step alone may take long.
        self._timer = threading.Timer(_PATIENCE, self._show)
        self._timer.daemon = True
        self._status: Any = None
        self._printed = -_PIPE_INTERVAL
        self._active = False
        self._closed = False

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._timer.cancel()
        with self._lock:
            self._active, self._closed = False, True
            if self._status is not None:
                self._status.stop()
        self._timer.join()

    def say(self, text: str) -> None:
        """What is being done now."""
        with self._lock:
            self._text = text
            if self._active:
                self._update()

    def _show(self) -> None:
        with self._lock:
            if not self._closed:
                self._active = True
                self._update()

    def _update(self) -> None:
        now = time.monotonic()
        text = Text(self._text, overflow="ellipsis", no_wrap=True)
        if self._status is not None:
            self._status.update(text)
        elif self._console.is_terminal:
            # Seldom redrawn: what is shown may be a measurement.
            self._status = self._console.status(text, refresh_per_second=2)
            self._status.start()
        elif now - self._printed >= _PIPE_INTERVAL:
            self._console.print(self._text, markup=False, soft_wrap=True)
            self._printed = now


@contextlib.contextmanager
def usage_errors() -> Iterator[None]:
    """Within the block, a ValueError is about what the user asked for."""
    try:
        yield
    except ValueError as error:
        raise CliError(str(error), Exit.USAGE) from error

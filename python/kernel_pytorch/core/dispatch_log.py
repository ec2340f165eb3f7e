"""The record of which implementation ran for each operator call, and why.

Backends write here on every call; :func:`explain` reads. Nothing is silent: a call that ran the
reference instead of a native kernel is recorded with its reason, counted, and raises under
:func:`strict`.
"""

from __future__ import annotations

import contextlib
import contextvars
import os
import threading
from collections import Counter, deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from kernel_pytorch.core.errors import StrictModeError

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "DispatchRecord",
    "Explanation",
    "counters",
    "explain",
    "is_strict",
    "noted",
    "record",
    "refuse_if_strict",
    "reset_counters",
    "settle",
    "strict",
]

_KEPT_CALLS = 256


class DispatchRecord(NamedTuple):
    """One operator call: what ran and why."""

    op: str
    backend: str
    """Device type the call ran on: "cpu", "cuda", ..."""
    implementation: str
    """"native", "reference", or "original" (a module's own code, in place of what optimize set)."""
    variant: str
    """Name of the native variant; "" for others."""
    reason: str
    """Why no native kernel ran; "" where one did."""


_recent: deque[DispatchRecord] = deque(maxlen=_KEPT_CALLS)
_listeners: list[list[DispatchRecord]] = []
_counts: Counter[DispatchRecord] = Counter()
_lock = threading.RLock()
noted: deque[DispatchRecord] = deque()
"""Calls that were noted and not yet settled: an append needs no lock, and counting many calls at
once costs each a fraction. Native code appends here by itself."""


def record(entry: DispatchRecord) -> None:
    """Note one call. Called by backends; costs a tenth of a microsecond."""
    noted.append(entry)
    if len(noted) >= _KEPT_CALLS:
        settle()


def settle() -> None:
    """Count the noted calls, keep the last ones, and hand them to who listens."""
    with _lock:
        entries = []
        with contextlib.suppress(IndexError):
            while True:
                entries.append(noted.popleft())
        _counts.update(entries)
        _recent.extend(entries)
        for listener in _listeners:
            listener.extend(entries)


def _renew_lock() -> None:
    """In a forked child: whoever held the lock is not there to release it."""
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


def counters() -> dict[DispatchRecord, int]:
    """How often each (op, backend, implementation, variant, reason) ran in this process."""
    settle()
    with _lock:
        return dict(_counts)


def reset_counters() -> None:
    """Forget all counts and recent calls."""
    settle()
    with _lock:
        _counts.clear()
        _recent.clear()


class Explanation:
    """Calls and what ran for each; printable, iterable, and a context manager.

    As a context manager it holds the calls made in the block, by any thread.
    """

    def __init__(self, calls: list[DispatchRecord]) -> None:
        self._calls = calls

    @property
    def calls(self) -> list[DispatchRecord]:
        """The calls, in the order in which they ended."""
        if any(listener is self._calls for listener in _listeners):
            settle()
        return self._calls

    def __enter__(self) -> Self:
        settle()
        self._calls = []
        with _lock:
            _listeners.append(self._calls)
        return self

    def __exit__(self, *exc_info: object) -> None:
        settle()
        with _lock:
            _listeners[:] = [calls for calls in _listeners if calls is not self._calls]

    def __iter__(self) -> Iterator[DispatchRecord]:
        return iter(self.calls)

    def __len__(self) -> int:
        return len(self.calls)

    @property
    def fallbacks(self) -> list[DispatchRecord]:
        """The calls that ran no native kernel."""
        return [c for c in self.calls if c.implementation != "native"]

    def __str__(self) -> str:
        if not self.calls:
            return "no kpt operator was called"
        rows = [("calls", "op", "device", "ran", "why")]
        for call, count in Counter(self.calls).items():
            ran = f"{call.implementation} {call.variant}".rstrip()
            rows.append((str(count), call.op, call.backend, ran, call.reason))
        widths = [max(len(row[i]) for row in rows) for i in range(5)]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()
            for row in rows
        )

    __repr__ = __str__


def explain() -> Explanation:
    """The last calls of ``torch.ops.kpt.*`` (up to 256), with what ran for each and why.

    ``with explain() as calls:`` collects the calls of the block instead.
    """
    settle()
    return Explanation(list(_recent))


_strict: contextvars.ContextVar[bool | None] = contextvars.ContextVar("kpt_strict", default=None)


def is_strict() -> bool:
    """Whether a missing native kernel raises: :func:`strict`, else ``KPT_STRICT=1``."""
    value = _strict.get()
    return os.environ.get("KPT_STRICT", "0") == "1" if value is None else value


@contextlib.contextmanager
def strict(enabled: bool = True) -> Iterator[None]:
    """Within the block, raise :class:`StrictModeError` instead of running a reference."""
    token = _strict.set(enabled)
    try:
        yield
    finally:
        _strict.reset(token)


def refuse_if_strict(op: str, backend: str, reason: str) -> None:
    """Raise :class:`StrictModeError` when strict mode is on."""
    if is_strict():
        raise StrictModeError(f"{op}: no native kernel ran on {backend}: {reason} (strict mode)")

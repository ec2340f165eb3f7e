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
    "record",
    "refuse_if_strict",
    "reset_counters",
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
_lock = threading.Lock()
_all_counts: list[Counter[DispatchRecord]] = []
_local = threading.local()


def record(entry: DispatchRecord) -> None:
    """Note one call. Called by backends; costs well under a microsecond."""
    _recent.append(entry)
    try:
        _local.counts[entry] += 1
    except AttributeError:
        # One counter per thread: an increment must not need a lock, nor lose a race.
        _local.counts = Counter((entry,))
        with _lock:
            _all_counts.append(_local.counts)
    if _listeners:
        for listener in tuple(_listeners):
            listener.append(entry)


def counters() -> dict[DispatchRecord, int]:
    """How often each (op, backend, implementation, variant, reason) ran in this process."""
    total: Counter[DispatchRecord] = Counter()
    with _lock:
        for counts in _all_counts:
            total.update(dict(counts))
    return dict(total)


def reset_counters() -> None:
    """Forget all counts and recent calls."""
    with _lock:
        for counts in _all_counts:
            counts.clear()
    _recent.clear()


class Explanation:
    """Calls and what ran for each; printable, iterable, and a context manager.

    As a context manager it holds the calls made in the block, by any thread.
    """

    def __init__(self, calls: list[DispatchRecord]) -> None:
        self.calls = calls

    def __enter__(self) -> Self:
        self.calls = []
        _listeners.append(self.calls)
        return self

    def __exit__(self, *exc_info: object) -> None:
        for i, listener in enumerate(_listeners):
            if listener is self.calls:
                del _listeners[i]
                break

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

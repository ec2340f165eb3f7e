"""Measured runs in one SQLite file: raw samples, and where they come from.

Any number of processes may write at once (WAL, short transactions). A file that is damaged or no
store is put aside under another name, with a warning, and never deleted. The layout has a version
in the file: one that a newer version of this package wrote is refused and left alone.
"""

from __future__ import annotations

import array
import contextlib
import dataclasses
import datetime
import fcntl
import json
import os
import sqlite3
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kernel_pytorch.core.errors import KernelPyTorchError

__all__ = [
    "PAIRED",
    "PerformanceMetrics",
    "PerformanceStore",
    "StoreError",
    "default_path",
    "is_paired",
]

PAIRED = "model "
"""What the names of references begin with that are models."""

SCHEMA_VERSION = 1
_APPLICATION = 0x4B505430  # "KPT0": the file says whose it is
_PATIENCE = 30.0
_SCHEMA = """
CREATE TABLE runs (
  id INTEGER PRIMARY KEY,
  subject TEXT NOT NULL,
  created TEXT NOT NULL,
  backend TEXT NOT NULL,
  level TEXT NOT NULL,
  machine TEXT NOT NULL,
  commit_name TEXT NOT NULL,
  pinned INTEGER NOT NULL DEFAULT 0,
  facts TEXT NOT NULL,
  samples BLOB NOT NULL,
  reference BLOB NOT NULL
);
CREATE INDEX runs_by_subject ON runs (subject, id);
"""


class StoreError(KernelPyTorchError, OSError):
    """The store cannot be read or written; the message says which file, why, and what to do."""


def is_paired(reference_name: str) -> bool:
    """Whether a reference of this name is a model."""
    return reference_name.startswith(PAIRED)


def default_path() -> Path:
    """``KPT_PERFORMANCE_STORE``, or ``~/.kernel_pytorch/performance.sqlite3``."""
    given = os.environ.get("KPT_PERFORMANCE_STORE")
    return Path(given) if given else Path.home() / ".kernel_pytorch" / "performance.sqlite3"


@dataclass
class PerformanceMetrics:
    """One run: of a model, or of an operator's benchmark row."""

    model_name: str
    model_hash: str
    """What was measured; the same in every process (see ``model_fingerprint``)."""
    timestamp: str
    """When, in UTC, ISO 8601."""
    latency_ms: float
    """Median of the samples."""
    throughput: float
    """Examples per second (of an operator: calls)."""
    memory_mb: float | None
    """MiB of weights and of the most that one call holds beside them; None: not measured."""
    backend: str
    optimization_level: str
    device: str
    batch_size: int
    accuracy: float | None = None
    additional_metrics: dict[str, Any] = field(default_factory=dict)
    samples: tuple[float, ...] = ()
    """Seconds of one call, in the order in which they were measured."""
    reference: tuple[float, ...] = ()
    """Seconds of the work that each sample was held against, of the same minute."""
    reference_name: str = ""
    busy: float | None = None
    """Part of the machine that other processes used meanwhile, 0 to 1; None: unknown."""
    machine: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    commit: str = ""
    run_id: int = 0
    """Number in the store; 0: not stored."""

    @property
    def paired(self) -> bool:
        """Whether the reference was another model, of the same kind of work: then the ratio says
        all, however busy the machine was."""
        return is_paired(self.reference_name)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data."""
        found = dataclasses.asdict(self)
        return found | {"samples": list(self.samples), "reference": list(self.reference)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> PerformanceMetrics:
        """What :meth:`to_dict` gave. Raises ValueError for unknown or missing fields."""
        known = {f.name for f in dataclasses.fields(cls)}
        if unknown := sorted(set(data) - known):
            raise ValueError(f"PerformanceMetrics: unknown field {', '.join(unknown)}")
        try:
            found = cls(**data)
        except TypeError as error:
            raise ValueError(f"PerformanceMetrics: {error}") from error
        found.samples, found.reference = tuple(found.samples), tuple(found.reference)
        return found


class PerformanceStore:
    """The runs in one file, which is made when the first run is added."""

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        """``path``: default :func:`default_path`.

        Raises StoreError where the file cannot be read or is of a newer version; warns where it is
        damaged, and puts it aside.
        """
        self.path = default_path() if path is None else Path(path)
        if self.path.exists():
            with self._connected():
                pass

    def add(self, run: PerformanceMetrics) -> PerformanceMetrics:
        """Writes a run; returns it with its number."""
        facts = run.to_dict()
        for name in ("samples", "reference", "run_id"):
            del facts[name]
        with self._connected() as connection:
            cursor = connection.execute(
                "INSERT INTO runs (subject, created, backend, level, machine, commit_name, facts,"
                " samples, reference) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    run.model_hash,
                    run.timestamp,
                    run.backend,
                    run.optimization_level,
                    _key(run.machine),
                    run.commit,
                    json.dumps(facts),
                    _packed(run.samples),
                    _packed(run.reference),
                ),
            )
            return dataclasses.replace(run, run_id=int(cursor.lastrowid or 0))

    def find(
        self,
        subject: str | None = None,
        *,
        backend: str | None = None,
        level: str | None = None,
        machine: dict[str, str] | None = None,
        commit: str | None = None,
        pinned: bool = False,
        limit: int | None = None,
    ) -> list[PerformanceMetrics]:
        """Runs that fit all that is given, newest first; ``commit`` may be the beginning of one."""
        if not self.path.exists():
            return []
        conditions, values = ["1"], list[Any]()
        for column, value in (
            ("subject", subject),
            ("backend", backend),
            ("level", level),
            ("machine", None if machine is None else _key(machine)),
        ):
            if value is not None:
                conditions.append(f"{column} = ?")
                values.append(value)
        if commit is not None:
            conditions.append("substr(commit_name, 1, ?) = ?")
            values += [len(commit), commit]
        if pinned:
            conditions.append("pinned = 1")
        query = (
            f"SELECT id, facts, samples, reference FROM runs WHERE {' AND '.join(conditions)} "
            "ORDER BY id DESC LIMIT ?"
        )
        with self._connected() as connection:
            rows = connection.execute(query, (*values, -1 if limit is None else limit)).fetchall()
        return [
            PerformanceMetrics.from_dict(
                json.loads(facts)
                | {"run_id": number, "samples": _unpacked(samples), "reference": _unpacked(other)}
            )
            for number, facts, samples, other in rows
        ]

    def pin(self, run: PerformanceMetrics) -> None:
        """Makes a stored run the baseline of its subject, backend and level on its machine.

        Raises ValueError for a run that is not in the store.
        """
        with self._connected() as connection:
            connection.execute(
                "UPDATE runs SET pinned = 0 WHERE subject = ? AND backend = ? AND level = ? AND "
                "machine = ?",
                (run.model_hash, run.backend, run.optimization_level, _key(run.machine)),
            )
            changed = connection.execute(
                "UPDATE runs SET pinned = 1 WHERE id = ? AND subject = ?",
                (run.run_id, run.model_hash),
            ).rowcount
            if changed != 1:
                raise ValueError(f"{self.path}: holds no run {run.run_id} of {run.model_hash}")

    def delete(self, subject: str | None = None) -> int:
        """Deletes the runs of a subject, or all; returns how many there were."""
        if not self.path.exists():
            return 0
        with self._connected() as connection:
            if subject is None:
                return connection.execute("DELETE FROM runs").rowcount
            return connection.execute("DELETE FROM runs WHERE subject = ?", (subject,)).rowcount

    @contextlib.contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        """A connection of its own for each use (threads and forked children share nothing), with
        one transaction, which is undone when the block raises."""
        connection = self._opened()
        try:
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")
        except sqlite3.DatabaseError as error:
            raise StoreError(f"{self.path}: {error}; nothing was changed") from error
        finally:
            connection.close()  # undoes what was not committed

    def _opened(self) -> sqlite3.Connection:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                return self._checked()
            except _DamagedError as damage:
                self._put_aside(str(damage))
                return self._checked()
        except _DamagedError as damage:  # a second time: something writes over it
            raise StoreError(f"{self.path}: {damage}") from damage
        except (sqlite3.OperationalError, OSError) as error:
            if isinstance(error, StoreError):
                raise
            raise StoreError(
                f"{self.path}: the performance store cannot be used: {error}; "
                "KPT_PERFORMANCE_STORE names another file"
            ) from error

    def _checked(self) -> sqlite3.Connection:
        """A connection to a store of this version, made if it is new. Raises _DamagedError."""
        connection = sqlite3.connect(self.path, timeout=_PATIENCE, isolation_level=None)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            (whose,) = connection.execute("PRAGMA application_id").fetchone()
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if tables and whose != _APPLICATION:
                raise _DamagedError("is a database of something else")
            if version > SCHEMA_VERSION:
                raise StoreError(
                    f"{self.path}: written by a newer version of kernel_pytorch (layout {version}, "
                    f"this version reads {SCHEMA_VERSION}): upgrade, or name another file"
                )
            if not tables:
                self._create(connection)
            (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                raise _DamagedError(f"is damaged: {verdict}")
        except BaseException as error:
            connection.close()
            if isinstance(error, sqlite3.DatabaseError) and not isinstance(
                error, sqlite3.OperationalError
            ):
                raise _DamagedError(f"is damaged or no SQLite file ({error})") from error
            raise
        return connection

    @staticmethod
    def _create(connection: sqlite3.Connection) -> None:
        connection.execute("BEGIN IMMEDIATE")
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if not tables:  # else another process was quicker
            for statement in _SCHEMA.split(";"):
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {_APPLICATION}")
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute("COMMIT")

    def _put_aside(self, problem: str) -> None:
        """Renames a damaged store; only one of several processes that find it damaged does."""
        with open(f"{self.path}.lock", "w", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                self._checked().close()
                return  # another process has put it aside
            except _DamagedError:
                pass
            now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%S%f")
            aside = self.path.with_name(f"{self.path.name}.damaged-{now}")
            for ending in ("", "-wal", "-shm"):
                with contextlib.suppress(FileNotFoundError):
                    os.rename(f"{self.path}{ending}", f"{aside}{ending}")
        warnings.warn(
            f"{self.path} {problem}; it was kept as {aside.name}, and a new store begun",
            stacklevel=6,
        )


class _DamagedError(Exception):
    """The file is no store that can be read."""


def _key(machine: dict[str, str]) -> str:
    return json.dumps(machine, sort_keys=True)


def _packed(values: tuple[float, ...]) -> bytes:
    found = array.array("d", values)
    if sys.byteorder == "big":
        found.byteswap()
    return found.tobytes()


def _unpacked(data: bytes) -> tuple[float, ...]:
    found = array.array("d", data)
    if sys.byteorder == "big":
        found.byteswap()
    return tuple(found)

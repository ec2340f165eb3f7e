"""A bounded folder of compiled binaries, addressed by what they were made from.

Safe for processes that share it: an entry appears whole or not at all, and one lock guards the
bound. What was not used for longest goes first.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

from filelock import FileLock

from kernel_pytorch.backends.base_exceptions import ConfigurationError

__all__ = ["CompileCache", "default_cache_folder"]

_DIGEST = hashlib.sha256().digest_size
_SUFFIX = ".bin"


def default_cache_folder() -> Path:
    """Where binaries are kept when nobody says: below the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "kernel_pytorch" / "compile"


class CompileCache:
    """At most ``max_entries`` binaries of ``max_bytes`` together in ``folder``.

    The folder is made when it is first written to, for this user alone; one that belongs to
    somebody else is refused (ConfigurationError): what lies there is run.
    """

    def __init__(
        self, folder: Path | str | None = None, max_entries: int = 100, max_bytes: int = 2**28
    ) -> None:
        for name, value in (("max_entries", max_entries), ("max_bytes", max_bytes)):
            if value < 1:
                raise ConfigurationError(name, value, "expected at least 1")
        self.folder = default_cache_folder() if folder is None else Path(folder)
        self.max_entries, self.max_bytes = max_entries, max_bytes
        self._hits = self._misses = self._evictions = 0

    @staticmethod
    def key(*parts: str | bytes) -> str:
        """The address of what is made from ``parts``: source, flags, the compiler's version."""
        digest = hashlib.sha256()
        for part in parts:
            data = part.encode() if isinstance(part, str) else part
            digest.update(len(data).to_bytes(8, "little") + data)
        return digest.hexdigest()

    def get(self, key: str) -> bytes | None:
        """The binary of ``key``, which counts as used. A damaged one is removed, with a warning."""
        path = self.folder / (key + _SUFFIX)
        try:
            self._check_owner()
            content = path.read_bytes()
        except FileNotFoundError:
            self._misses += 1
            return None
        digest, binary = content[:_DIGEST], content[_DIGEST:]
        if hashlib.sha256(binary).digest() != digest:
            warnings.warn(f"{path} is damaged: removed, and made anew", UserWarning, stacklevel=2)
            path.unlink(missing_ok=True)
            self._misses += 1
            return None
        now = time.time_ns()
        # Another process may just have removed it: the binary is in hand anyway.
        with contextlib.suppress(FileNotFoundError):
            os.utime(path, ns=(now, now))
        self._hits += 1
        return binary

    def put(self, key: str, binary: bytes) -> None:
        """Keep ``binary``, and remove what is beyond the bounds."""
        self._make_folder()
        with tempfile.NamedTemporaryFile(dir=self.folder, suffix=".new", delete=False) as file:
            file.write(hashlib.sha256(binary).digest() + binary)
        os.replace(file.name, self.folder / (key + _SUFFIX))
        with FileLock(self.folder / ".lock"):
            self._evict()

    def _make_folder(self) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._check_owner()

    def _check_owner(self) -> None:
        if hasattr(os, "getuid") and self.folder.stat().st_uid != os.getuid():
            raise ConfigurationError(
                "folder", str(self.folder), "it belongs to another user; choose a folder of yours"
            )

    def _entries(self) -> list[tuple[int, int, Path]]:
        """(last use, bytes, path), the one unused for longest first."""
        found = []
        for path in self.folder.glob("*" + _SUFFIX):
            try:
                status = path.stat()
            except FileNotFoundError:
                continue
            found.append((status.st_mtime_ns, status.st_size, path))
        return sorted(found)

    def _evict(self) -> None:
        entries = self._entries()
        count, size = len(entries), sum(e[1] for e in entries)
        for _, nbytes, path in entries[:-1]:  # the newest stays, however large
            if count <= self.max_entries and size <= self.max_bytes:
                break
            path.unlink(missing_ok=True)
            count, size = count - 1, size - nbytes
            self._evictions += 1

    def clear(self) -> None:
        """Remove all binaries."""
        for _, _, path in self._entries():
            path.unlink(missing_ok=True)

    def __len__(self) -> int:
        return len(self._entries())

    def get_stats(self) -> dict[str, Any]:
        """hits, misses and evictions of this object; size (entries) and bytes of the folder."""
        entries = self._entries()
        return {
            "hits": self._hits,
            "misses": self._misses,
            "evictions": self._evictions,
            "size": len(entries),
            "bytes": sum(e[1] for e in entries),
            "max_size": self.max_entries,
            "max_bytes": self.max_bytes,
            "folder": str(self.folder),
        }

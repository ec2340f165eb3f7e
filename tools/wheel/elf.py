"""Reads from an ELF file what decides where it runs: needed libraries, versions, symbols.

64-bit little-endian shared libraries only; only the dynamic tables are read, which stripping
leaves alone. Layouts are those of the System V ABI (gABI chapters 4 and 5) and, for symbol
versions, of the Linux Standard Base.
"""

import dataclasses
import re
import struct

_SHT_DYNAMIC = 6
_SHT_DYNSYM = 11
_SHT_GNU_VERNEED = 0x6FFFFFFE
_DT_NEEDED = 1
_STB_LOCAL = 0

# The newest GLIBCXX version of the C++ library that came with each C library: GCC 8, 10, 11, 12,
# 13, 14 and 15, as in the distributions the manylinux policies are made from.
_CXX_PLATFORMS = (
    ((2, 28), (3, 4, 25)),
    ((2, 31), (3, 4, 28)),
    ((2, 34), (3, 4, 29)),
    ((2, 35), (3, 4, 30)),
    ((2, 38), (3, 4, 32)),
    ((2, 39), (3, 4, 33)),
    ((2, 41), (3, 4, 34)),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SharedLibrary:
    """What one shared library asks for and offers."""

    needed: tuple[str, ...]  # DT_NEEDED, in order
    versions: frozenset[tuple[str, str]]  # (library, version), e.g. ("libc.so.6", "GLIBC_2.34")
    exported: frozenset[str]  # defined, global or weak
    undefined: frozenset[str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Section:
    kind: int
    offset: int
    size: int
    link: int
    info: int


def _text(data: bytes, table: _Section, offset: int) -> str:
    start = table.offset + offset
    return data[start : data.index(b"\0", start)].decode()


def read(data: bytes) -> SharedLibrary:
    """Reads a shared library; ValueError if `data` is not one of the kind named above."""
    if data[:6] != b"\x7fELF\x02\x01":
        raise ValueError("not a 64-bit little-endian ELF file")
    (table,) = struct.unpack_from("<Q", data, 40)
    size, count = struct.unpack_from("<HH", data, 58)
    sections = []
    for i in range(count):
        fields = struct.unpack_from("<IIQQQQIIQQ", data, table + i * size)
        sections.append(
            _Section(
                kind=fields[1], offset=fields[4], size=fields[5], link=fields[6], info=fields[7]
            )
        )

    needed, versions, exported, undefined = [], set(), set(), set()
    for section in sections:
        strings = sections[section.link] if section.link < len(sections) else section
        if section.kind == _SHT_DYNAMIC:
            for at in range(section.offset, section.offset + section.size, 16):
                tag, value = struct.unpack_from("<qQ", data, at)
                if tag == _DT_NEEDED:
                    needed.append(_text(data, strings, value))
        elif section.kind == _SHT_DYNSYM:
            for at in range(section.offset + 24, section.offset + section.size, 24):
                name, info, _, index = struct.unpack_from("<IBBH", data, at)
                if info >> 4 != _STB_LOCAL:
                    (undefined if index == 0 else exported).add(_text(data, strings, name))
        elif section.kind == _SHT_GNU_VERNEED:
            at = section.offset
            for _ in range(section.info):
                _, entries, file, first, following = struct.unpack_from("<HHIII", data, at)
                library, entry = _text(data, strings, file), at + first
                for _ in range(entries):
                    _, _, _, name, step = struct.unpack_from("<IHHII", data, entry)
                    versions.add((library, _text(data, strings, name)))
                    entry += step
                at += following
    return SharedLibrary(
        needed=tuple(needed),
        versions=frozenset(versions),
        exported=frozenset(exported),
        undefined=frozenset(undefined),
    )


def oldest_platform(library: SharedLibrary) -> tuple[int, int]:
    """The oldest manylinux_x_y the library runs on, by the symbol versions it needs.

    That is the newest GLIBC_x.y among them, or the platform that came with the newest GLIBCXX_x.y.z
    if that is later; ValueError for a GLIBCXX newer than the table above.
    """
    platform = (0, 0)
    for _, version in library.versions:
        kind, _, number = version.partition("_")
        if not re.fullmatch(r"[0-9.]+", number):
            continue  # e.g. GLIBC_PRIVATE, GCC_3.0
        numbers = tuple(int(v) for v in number.split("."))
        if kind == "GLIBC":
            platform = max(platform, (numbers[0], numbers[1]))
        elif kind == "GLIBCXX":
            fitting = [p for p, newest in _CXX_PLATFORMS if numbers <= newest]
            if not fitting:
                raise ValueError(f"{version} is newer than any known platform")
            platform = max(platform, fitting[0])
    return platform

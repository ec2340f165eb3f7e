"""The edge: configuration from and to TOML and JSON, from the environment and assignments."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kernel_pytorch.core.config.base import Section, unknown_key
from kernel_pytorch.core.config.presets import PRESETS
from kernel_pytorch.core.errors import ConfigValidationError

__all__ = [
    "FILE_VARIABLE",
    "PREFIX",
    "check_key",
    "from_json",
    "from_toml",
    "layers",
    "merged",
    "parse_assignments",
    "read",
    "to_json",
    "to_toml",
    "write",
]

PREFIX = "KPT_CONFIG__"
FILE_VARIABLE = "KPT_CONFIG_FILE"

_log = logging.getLogger("kernel_pytorch.config")

Layer = tuple[str, Mapping[str, Any]]
"""Where values come from, and the values, nested."""


def check_key(root: type[Section], key: str) -> None:
    """Raises ConfigValidationError unless the dotted ``key`` is a value of ``root``."""
    section, parts = root, key.split(".")
    for depth, part in enumerate(parts):
        field = section.model_fields.get(part)
        if field is None:
            lead = "".join(f"{p}." for p in parts[:depth])
            raise unknown_key(section, part, None, lead, root.__name__)
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, Section):
            section = inner
        elif depth + 1 < len(parts):
            raise ConfigValidationError(
                root.__name__, key, None, f"{'.'.join(parts[: depth + 1])} has no keys below it"
            )
    if isinstance(inner, type) and issubclass(inner, Section):
        keys = ", ".join(section.model_fields)
        raise ConfigValidationError(root.__name__, key, None, f"is a section; its keys are {keys}")


def _nested(root: type[Section], flat: Mapping[str, Any]) -> dict[str, Any]:
    """Values by dotted keys as values by sections."""
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        check_key(root, key)
        place = nested
        *sections, name = key.split(".")
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = value
    return nested


def parse_assignments(words: Iterable[str]) -> dict[str, str]:
    """["precision.fp8_enabled=true"] as {"precision.fp8_enabled": "true"}."""
    found = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key.strip():
            raise ConfigValidationError("assignment", word, word, "expected KEY=VALUE")
        found[key.strip()] = value.strip()
    return found


def layers(
    root: type[Section],
    path: str | Path | None,
    preset: str | None,
    environment: Mapping[str, str] | None,
    assignments: Mapping[str, Any] | None,
) -> list[Layer]:
    """What sets values, the weakest first."""
    found: list[Layer] = []
    environment = os.environ if environment is None else environment
    if preset is not None:
        if preset not in PRESETS:
            names = ", ".join(PRESETS)
            raise ConfigValidationError("preset", "", preset, f"expected {names}, got {preset!r}")
        found.append((f"preset {preset}", PRESETS[preset]))
    path = path or environment.get(FILE_VARIABLE) or None
    if path is not None:
        found.append((str(path), read(Path(path))))
    flat = {
        name.removeprefix(PREFIX).lower().replace("__", "."): value
        for name, value in environment.items()
        if name.startswith(PREFIX)
    }
    found.append(("environment", _nested(root, flat)))
    found.append(("assignment", _nested(root, assignments or {})))
    return found


def merged(found: Iterable[Layer]) -> tuple[dict[str, Any], dict[str, str]]:
    """The values that hold, nested, and where each came from, by dotted key."""
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for origin, layer in found:
        _merge(values, layer, origin, origins, "")
    return values, origins


def _merge(
    into: dict[str, Any], layer: Mapping[str, Any], origin: str, origins: dict[str, str], path: str
) -> None:
    for name, value in layer.items():
        key = f"{path}{name}"
        if isinstance(value, Mapping):
            inner = into.setdefault(name, {})
            if not isinstance(inner, dict):
                raise ConfigValidationError("config", key, value, f"{origins[key]} sets a value")
            _merge(inner, value, origin, origins, f"{key}.")
            continue
        if key in origins and into.get(name) != value:
            _log.info("%s: %r of %s replaces that of %s", key, value, origin, origins[key])
        into[name], origins[key] = value, origin


def read(path: Path) -> dict[str, Any]:
    """The values of a .toml or .json file. Raises ConfigValidationError naming the file."""
    reader = {".toml": from_toml, ".json": from_json}.get(path.suffix.lower())
    if reader is None:
        raise ConfigValidationError(str(path), "", None, "the name must end in .toml or .json")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigValidationError(str(path), "", None, f"cannot be read: {error}") from error
    return reader(text, str(path))


def write(path: Path, values: Mapping[str, Any]) -> None:
    """A .toml or .json file, whole or not at all. Raises ConfigValidationError for another name,
    OSError when it cannot be written."""
    writer = {".toml": to_toml, ".json": to_json}.get(path.suffix.lower())
    if writer is None:
        raise ConfigValidationError(str(path), "", None, "the name must end in .toml or .json")
    text = writer(values)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def to_json(values: Mapping[str, Any]) -> str:
    return json.dumps(values, indent=2) + "\n"


def from_json(text: str, where: str) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except ValueError as error:
        raise ConfigValidationError(where, "", None, f"is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ConfigValidationError(where, "", values, "should be an object of sections")
    return values


def to_toml(values: Mapping[str, Any]) -> str:
    import tomlkit

    return tomlkit.dumps(_without_none(values))


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _without_none(value) if isinstance(value, Mapping) else value
        for name, value in values.items()
        if value is not None
    }


def from_toml(text: str, where: str) -> dict[str, Any]:
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    try:
        values: dict[str, Any] = tomlkit.parse(text).unwrap()
    except TOMLKitError as error:
        raise ConfigValidationError(where, "", None, f"is not TOML: {error}") from error
    return values

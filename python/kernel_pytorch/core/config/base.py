"""The base of every section: values are checked whenever they are set, unknown keys are refused."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import pydantic

from kernel_pytorch.core.errors import ConfigValidationError

__all__ = ["Section", "unknown_key"]

_SURE = 0.8
"""From this likeness on, an attribute that does not exist is a misspelt one."""


def _nearest(name: str, names: list[str], cutoff: float = 0.0) -> str:
    found = difflib.get_close_matches(name.lower(), names, n=1, cutoff=cutoff)
    return found[0] if found else ""


def unknown_key(
    section: type[Section], key: str, value: Any, path: str = "", root: str = ""
) -> ConfigValidationError:
    """The error for ``key``, which ``section`` does not have; ``path`` leads to the section from
    the one called ``root``."""
    reason = f"unknown key; the nearest is {_nearest(key, list(section.model_fields))!r}"
    return ConfigValidationError(root or section.__name__, f"{path}{key}", value, reason)


class Section(pydantic.BaseModel):
    """A part of the configuration.

    Values that were not given are filled in, and follow those that they depend on. A value that
    does not fit raises :class:`~kernel_pytorch.core.errors.ConfigValidationError` (a ValueError)
    that names the key, and leaves the section as it was. Attributes beyond the fields may be set on
    an instance; they are no part of the configuration, and a warning says so.
    """

    model_config = pydantic.ConfigDict(
        extra="forbid", validate_assignment=True, arbitrary_types_allowed=True
    )

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except pydantic.ValidationError as error:
            raise _translated(type(self), error) from None

    def __setattr__(self, name: str, value: Any) -> None:
        fields = type(self).model_fields
        if name in fields or name.startswith("_"):
            try:
                super().__setattr__(name, value)
            except pydantic.ValidationError as error:
                raise _translated(type(self), error) from None
            self._fill_in()
        elif near := _nearest(name, list(fields), _SURE):
            raise AttributeError(
                f"{type(self).__name__} has no {name!r}; the nearest field is {near!r}"
            )
        else:
            if name not in self.__dict__:
                warnings.warn(
                    f"{type(self).__name__}.{name} is no field of the configuration: it is kept on "
                    "this object, and neither checked nor saved",
                    stacklevel=2,
                )
            self.__dict__[name] = value

    def _fill_in(self) -> None:
        """What was not given and depends on other values follows them."""
        for name, field in type(self).model_fields.items():
            follows = field.default_factory_takes_validated_data
            if follows and name not in self.model_fields_set:
                self.__dict__[name] = field.get_default(
                    call_default_factory=True, validated_data=self.__dict__
                )

    def to_dict(self) -> dict[str, Any]:
        """All values, nested, as plain data that JSON can hold."""
        return self.model_dump(mode="json")

    def user_values(self) -> dict[str, Any]:
        """Those values that were given or set, not filled in: nested, as plain data."""
        return self._only(lambda section: section.model_fields_set)

    def _only(self, wanted: Any) -> dict[str, Any]:
        plain, found = self.to_dict(), {}
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, Section):
                if inner := value._only(wanted):
                    found[name] = inner
            elif name in wanted(self):
                found[name] = plain[name]
        return found

    def update(self, **values: Any) -> None:
        """Sets several values; a mapping for a section sets those of its keys that it has. All or
        nothing: raises ConfigValidationError, a ValueError, for an unknown key or a bad value."""
        name = type(self).__name__
        _apply(self.model_copy(deep=True), values, "", name)
        _apply(self, values, "", name)

    @classmethod
    def leaves(cls, prefix: str = "") -> Iterator[str]:
        """Every key below this section, dotted: "precision.fp8_enabled"."""
        for name, field in cls.model_fields.items():
            inner = field.annotation
            if isinstance(inner, type) and issubclass(inner, Section):
                yield from inner.leaves(f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}"


def _apply(section: Section, values: Mapping[str, Any], path: str, root: str) -> None:
    for key, value in values.items():
        if key not in type(section).model_fields:
            raise unknown_key(type(section), key, value, path, root)
        current = getattr(section, key)
        if isinstance(current, Section) and isinstance(value, Mapping):
            _apply(current, value, f"{path}{key}.", root)
        else:
            try:
                setattr(section, key, value)
            except ConfigValidationError as error:
                raise _below(root, path, error) from None


def _below(name: str, path: str, error: ConfigValidationError) -> ConfigValidationError:
    parameter = f"{path}{error.parameter}"
    return ConfigValidationError(name, parameter, error.value, error.reason)


def _translated(section: type[Section], error: pydantic.ValidationError) -> Exception:
    """The first fault; how many more there are."""
    faults = [
        fault
        for fault in error.errors(include_url=False)
        # Values that could not be filled in because of another fault.
        if fault["type"] != "default_factory_not_called"
    ]
    first, more = faults[0], len(faults) - 1
    path = ".".join(str(part) for part in first["loc"])
    value = first["input"]
    inner = first.get("ctx", {}).get("error")
    if isinstance(inner, ConfigValidationError):  # raised by a section within
        found = _below(section.__name__, f"{path}.", inner)
    elif first["type"] == "extra_forbidden":
        found = unknown_key(section, path, value)
    else:
        reason = first["msg"].removeprefix("Value error, ").replace("Input should", "should")
        found = ConfigValidationError(section.__name__, path, value, f"{reason}, got {value!r}")
    if more:
        reason = f"{found.reason} (and {more} more)"
        found = ConfigValidationError(found.config_name, found.parameter, found.value, reason)
    return found

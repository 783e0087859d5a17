"""Checks that the values of a TOML file have the types of an annotation, and describes a mismatch in words.

Invariant: the annotations of the classes that take the values are the only declaration. Nothing is converted, and a
text is never taken for a list of characters. Each class checks itself whether a value makes sense.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from fireact.errors import ConfigError, unknown_name_error

_TYPE_NAMES = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", Any: "any value"}
_TYPES: Mapping[Any, tuple[type, ...]] = {str: (str,), int: (int,), float: (int, float), bool: (bool,)}
_MAX_CHARS = 80
"""Characters of a value that a message repeats."""


def check_type(value: Any, kind: Any, location: str) -> None:
    """Raise ConfigError with the location, the value and the allowed types, unless the value is of the type ``kind``.

    ``kind`` is an annotation: Any, str, int, float (whole numbers too), bool, Sequence[X], Mapping[str, X], a dataclass
    (a table of its fields), or a union of these.
    """
    union = get_origin(kind) in (Union, UnionType)
    allowed = [member for member in (get_args(kind) if union else (kind,)) if member is not NoneType]
    matching_kind = next((member for member in allowed if _is_of_type(value, member)), None)
    if matching_kind is None:
        value_text = repr(value) if len(repr(value)) <= _MAX_CHARS else f"{repr(value)[:_MAX_CHARS]}..."
        raise ConfigError(f"{location} is {value_text}; it must be {' or '.join(map(_describe_type, allowed))}.")
    if is_dataclass(matching_kind):
        _check_dataclass(value, matching_kind, location)
    elif isinstance(value, Mapping) and get_args(matching_kind):
        for key, item in value.items():
            check_type(item, get_args(matching_kind)[1], f"{location}.{key}")
    elif isinstance(value, list | tuple) and get_args(matching_kind):
        for number, item in enumerate(value, 1):
            check_type(item, get_args(matching_kind)[0], f"{location} (number {number})")


def check_fields(values: Mapping[str, Any], kinds: Mapping[str, Any], location: str) -> None:
    """``check_type`` each value against the type of its name. Raises ConfigError also for a name not in ``kinds``."""
    for key, value in values.items():
        if key not in kinds:
            raise unknown_name_error(f"setting in {location}:", key, kinds)
        check_type(value, kinds[key], f"{location}.{key}")


def _check_dataclass(values: Mapping[str, Any], kind: Any, location: str) -> None:
    check_fields(values, get_type_hints(kind), location)
    required = [entry.name for entry in fields(kind) if entry.default is MISSING and entry.default_factory is MISSING]
    missing = [name for name in required if name not in values]
    if missing:
        raise ConfigError(f"{location} is {dict(values)}; it lacks {' and '.join(missing)}.")


def _is_of_type(value: Any, kind: Any) -> bool:
    """Whether a value is of a type; the types of its items are not looked at."""
    if kind is Any:
        return True
    if is_dataclass(kind) or get_origin(kind) is Mapping:
        return isinstance(value, Mapping)
    if get_origin(kind) is Sequence:
        return isinstance(value, list | tuple)
    # In Python a bool is an int, but true is no number in a TOML file.
    return isinstance(value, _TYPES[kind]) and (kind is bool or not isinstance(value, bool))


def _describe_type(kind: Any) -> str:
    if is_dataclass(kind):
        return f"a table with {', '.join(entry.name for entry in fields(kind))}"
    if get_origin(kind) is Mapping:
        return "a table" + ("" if get_args(kind)[1] is Any else f", each value {_describe_type(get_args(kind)[1])}")
    if get_origin(kind) is Sequence:
        return "a list" + ("" if get_args(kind)[0] is Any else f", each item {_describe_type(get_args(kind)[0])}")
    return _TYPE_NAMES[kind]

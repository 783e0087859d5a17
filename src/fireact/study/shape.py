"""Whether what a TOML file holds has the shape that an annotation tells; where it has not, that is said in words.

Invariant: the annotations of the classes that take the values are the only declaration; nothing is converted, and a text
is never taken for a list of letters. Whether a value makes sense is its class's business.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from fireact.errors import ConfigError, unknown

_WORDS = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", Any: "any value"}
_TYPES: Mapping[Any, tuple[type, ...]] = {str: (str,), int: (int,), float: (int, float), bool: (bool,)}
_LETTERS = 80
"""Letters of a value that a message repeats."""


def fit(value: Any, kind: Any, where: str) -> None:
    """Raise ConfigError that names the place, the value and what is allowed, unless the value is of the type ``kind``.

    ``kind`` is an annotation: Any, str, int, float (whole numbers too), bool, Sequence[X], Mapping[str, X], a dataclass
    (a table of its fields), or a union of these.
    """
    union = get_origin(kind) in (Union, UnionType)
    allowed = [one for one in (get_args(kind) if union else (kind,)) if one is not NoneType]
    found = next((one for one in allowed if _is(value, one)), None)
    if found is None:
        shown = repr(value) if len(repr(value)) <= _LETTERS else f"{repr(value)[:_LETTERS]}..."
        raise ConfigError(f"{where} is {shown}; it must be {' or '.join(map(_words, allowed))}.")
    if is_dataclass(found):
        _fit_fields(value, found, where)
    elif isinstance(value, Mapping) and get_args(found):
        for key, one in value.items():
            fit(one, get_args(found)[1], f"{where}.{key}")
    elif isinstance(value, list | tuple) and get_args(found):
        for number, one in enumerate(value, 1):
            fit(one, get_args(found)[0], f"{where} (number {number})")


def fit_fields(values: Mapping[str, Any], kinds: Mapping[str, Any], where: str) -> None:
    """``fit`` each value to the type of its name. Raises ConfigError for a name that is not in ``kinds`` too."""
    for key, value in values.items():
        if key not in kinds:
            raise unknown(f"setting in {where}:", key, kinds)
        fit(value, kinds[key], f"{where}.{key}")


def _fit_fields(values: Mapping[str, Any], kind: Any, where: str) -> None:
    fit_fields(values, get_type_hints(kind), where)
    needed = [entry.name for entry in fields(kind) if entry.default is MISSING and entry.default_factory is MISSING]
    lacking = [name for name in needed if name not in values]
    if lacking:
        raise ConfigError(f"{where} is {dict(values)}; it lacks {' and '.join(lacking)}.")


def _is(value: Any, kind: Any) -> bool:
    """Whether a value is of a type, whatever it holds."""
    if kind is Any:
        return True
    if is_dataclass(kind) or get_origin(kind) is Mapping:
        return isinstance(value, Mapping)
    if get_origin(kind) is Sequence:
        return isinstance(value, list | tuple)
    return isinstance(value, _TYPES[kind]) and (kind is bool or not isinstance(value, bool))


def _words(kind: Any) -> str:
    if is_dataclass(kind):
        return f"a table with {', '.join(entry.name for entry in fields(kind))}"
    if get_origin(kind) is Mapping:
        return "a table" + ("" if get_args(kind)[1] is Any else f", each value {_words(get_args(kind)[1])}")
    if get_origin(kind) is Sequence:
        return "a list" + ("" if get_args(kind)[0] is Any else f", each of it {_words(get_args(kind)[0])}")
    return _WORDS[kind]

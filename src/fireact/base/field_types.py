"""Checks the values of a dataclass, at any depth, against the types that its fields declare.

Parsed JSON may hold anything, and others compute with the values. Invariant: a value that passes has the declared type,
its numbers are finite, and its counts and weights are not negative.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from fireact.base.redact import excerpt

_COUNTS = ("weight", "repairs", "calls", "prompt_tokens", "cached_tokens", "completion_tokens")


class _FieldType(NamedTuple):
    """What a field may hold: types, the texts where these are given, and whether dataclasses stand in it."""

    name: str
    types: frozenset[type[Any]]
    choices: tuple[str, ...]
    has_fields: bool


def check_field_types(value: Any, where: str = "") -> None:
    """Raise TypeError or ValueError that names the field (after ``where``), its value and what is allowed."""
    dataclass_type: Any = type(value)
    for name, types, choices, has_fields in _field_types(dataclass_type):
        item = getattr(value, name)
        kind = type(item)
        if kind not in types:
            raise TypeError(f"{where}{name} is {excerpt(repr(item), 60)}; it must be {_describe_types(types)}")
        if choices and item not in choices:
            raise ValueError(f"{where}{name} is {excerpt(repr(item), 60)}; it must be one of {', '.join(choices)}")
        if has_fields and item is not None:
            for inner in item if kind is tuple else (item,):
                check_field_types(inner, f"{where}{name}.")
        elif kind is int or kind is float:
            _check_number(item, f"{where}{name}", low=0.0 if name in _COUNTS else -math.inf)
        elif name == "scores":
            for score_name, score in item.items():
                _check_number(score, f"score {score_name}")


def _check_number(number: Any, where: str, low: float = -math.inf) -> None:
    try:
        is_sound = math.isfinite(number) and number >= low
    except (TypeError, OverflowError):  # no number, or a whole number beyond all floats
        is_sound = False
    if not is_sound:
        allowed = "a finite number" + ("" if low < 0 else " from 0")
        raise ValueError(f"{where} is {excerpt(repr(number), 60)}; it must be {allowed}")


@functools.cache
def _field_types(dataclass_type: Any) -> tuple[_FieldType, ...]:
    return tuple(
        _FieldType(
            name,
            frozenset(runtime_type for member in members for runtime_type in _runtime_types(member)),
            get_args(kind) if get_origin(kind) is Literal else (),
            any(is_dataclass(inner) for member in members for inner in (member, *get_args(member))),
        )
        for name, kind in get_type_hints(dataclass_type).items()
        for members in [get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)]
    )


def _runtime_types(kind: Any) -> tuple[type[Any], ...]:
    """The types that JSON gives a value of this annotation; a whole number is a number too."""
    origin = get_origin(kind)
    if origin is not None:
        return ({Mapping: dict, Literal: str}.get(origin, origin),)
    return (float, int) if kind is float else (kind,)


def _describe_types(types: frozenset[type[Any]]) -> str:
    names = {str: "text", float: "a number", int: "a whole number", bool: "true or false", NoneType: "null"}
    words = [word for kind, word in names.items() if kind in types and not (kind is int and float in types)]
    return " or ".join(words or ["an object"])

"""Checks the values of a dataclass, at any depth, against the types that its fields declare.

Parsed JSON may hold anything, and others compute with the values. Invariant: a value that passes has the declared type,
its numbers are finite, and its counts and weights are not negative.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from fireact.base.redact import excerpt

_COUNTS = ("weight", "repairs", "calls", "prompt_tokens", "cached_tokens", "completion_tokens")
_LARGEST = 1e308
"""The largest number that others can compute with as a float."""


class _FieldType(NamedTuple):
    """What a field may hold: types, the texts where these are given, and the least number."""

    name: str
    types: frozenset[type[Any]]
    choices: tuple[str, ...]
    low: float


class _DataclassType(NamedTuple):
    """The fields of a dataclass, how to read them at once, and where numbers, texts of a list and fields stand in it.

    ``sound`` holds the combinations of types that passed: nearly all values of a large file have one of a few.
    """

    read: Callable[[Any], tuple[Any, ...]]
    fields: tuple[_FieldType, ...]
    bounded: tuple[int, ...]
    nested: tuple[int, ...]
    sound: set[tuple[type[Any], ...]]


def check_field_types(value: Any, where: str = "") -> None:
    """Raise TypeError or ValueError that names the field (after ``where``), its value and what is allowed."""
    dataclass_type: Any = type(value)
    declared = _read_declaration(dataclass_type)
    items = declared.read(value)
    kinds = tuple(map(type, items))
    if kinds not in declared.sound:
        for field_type, item in zip(declared.fields, items, strict=True):
            if type(item) not in field_type.types:
                raise _wrong_value(item, where, field_type)
        declared.sound.add(kinds)
    for index in declared.bounded:
        field_type, item = declared.fields[index], items[index]
        if item in field_type.choices or item is None:
            continue
        if field_type.choices or not field_type.low <= item <= _LARGEST:
            raise _wrong_value(item, where, field_type)
    for index in declared.nested:
        _check_inner(items[index], where, declared.fields[index])


def _check_inner(item: Any, where: str, field_type: _FieldType) -> None:
    """Check the dataclasses in a field, or the scores."""
    if isinstance(item, dict):
        for name, score in item.items():
            if type(score) not in (int, float) or not -_LARGEST <= score <= _LARGEST:
                raise _wrong_value(score, "score ", field_type._replace(name=name, types=frozenset([float, int])))
    elif item is not None:
        for inner in item if isinstance(item, tuple) else (item,):
            check_field_types(inner, f"{where}{field_type.name}.")


def _wrong_value(value: Any, where: str, field_type: _FieldType) -> TypeError | ValueError:
    described = f"{where}{field_type.name} is {excerpt(repr(value), 60)}; it must be"
    if type(value) not in field_type.types:
        return TypeError(f"{described} {_describe_types(field_type.types)}")
    if field_type.choices:
        return ValueError(f"{described} one of {', '.join(field_type.choices)}")
    return ValueError(f"{described} a finite number{' from 0' if field_type.low == 0 else ''}")


@functools.cache
def _read_declaration(dataclass_type: Any) -> _DataclassType:
    fields, bounded, nested = [], [], []
    for index, (name, kind) in enumerate(get_type_hints(dataclass_type).items()):
        members = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
        types = frozenset(runtime_type for member in members for runtime_type in _runtime_types(member))
        choices = get_args(kind) if get_origin(kind) is Literal else ()
        fields.append(_FieldType(name, types, choices, 0.0 if name in _COUNTS else -_LARGEST))
        if choices or types & {int, float}:
            bounded.append(index)
        if name == "scores" or any(is_dataclass(inner) for member in members for inner in (member, *get_args(member))):
            nested.append(index)
    read = operator.attrgetter(*(field_type.name for field_type in fields))
    return _DataclassType(read, tuple(fields), tuple(bounded), tuple(nested), set())


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

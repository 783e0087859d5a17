"""Reads JSON that nobody has checked: a value of a wrong type becomes damage, and a field without a reader rides along.

Invariant: nothing here raises, and each value of an object is returned, recorded as damage, or still in ``unread``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

DamageKind = Literal[
    "wrong-type", "missing", "unknown-role", "torn-arguments", "unknown-block", "unread-tool-call", "stray-result",
    "unread-schema",
]  # fmt: skip
_UNREADABLE = object()


@dataclass(frozen=True, slots=True)
class WireDamage:
    """A value that a dialect does not allow: its kind, where it stands (``messages[3].role``), and the value itself."""

    kind: DamageKind
    where: str
    value: Any
    expected: str

    def __str__(self) -> str:
        try:
            value_text = repr(self.value)
        except RecursionError:
            value_text = "nested too deeply"
        excerpt = f"{value_text[:200]}..." if len(value_text) > 200 else value_text
        return f"{self.where} is {excerpt}; it must be {self.expected}"


class Fields:
    """The fields of a JSON object that are still unread. Null counts as absent."""

    def __init__(self, value: Any, where: str, damage: list[WireDamage]) -> None:
        self._where, self.damage = where, damage
        if not isinstance(value, Mapping):
            self._report("wrong-type", where or "the body", value, "a JSON object")
            value = {}
        self.unread: dict[str, Any] = {str(key): item for key, item in value.items() if item is not None}

    @classmethod
    def parse(cls, text: str, where: str, damage: list[WireDamage]) -> Fields | None:
        """The fields of an object that is JSON text; None, and damage, for text that is no JSON."""
        value = parse_json(text, _UNREADABLE)
        if value is _UNREADABLE:
            damage.append(WireDamage("wrong-type", where, text, "JSON"))
            return None
        return cls(value, where, damage)

    def path(self, key: str) -> str:
        """Where a field stands, from the root of the body."""
        return f"{self._where}.{key}" if self._where else key

    def text(self, key: str) -> str:
        """A string; empty where it is absent."""
        return self._take(key, "a string", str) or ""

    def integer(self, key: str) -> int | None:
        """A whole number."""
        value: int | None = self._take(key, "a whole number", int)
        return value

    def count(self, key: str) -> int:
        """A whole number of at least 0; 0 where it is absent."""
        value = self.integer(key) or 0
        if value < 0:
            self._report("wrong-type", self.path(key), value, "0 or more")
        return max(value, 0)

    def number(self, key: str) -> float | None:
        """A number."""
        value: float | None = self._take(key, "a number", int, float)
        return value

    def flag(self, key: str) -> bool:
        """True or false; false where it is absent."""
        return self._take(key, "true or false", bool) or False

    def choice(self, key: str) -> bool | None:
        """True or false; None where it is absent."""
        value: bool | None = self._take(key, "true or false", bool)
        return value

    def items(self, key: str) -> list[Any]:
        """A list; empty where it is absent."""
        return self._take(key, "a list", list) or []

    def mapping(self, key: str) -> dict[str, Any]:
        """An inner object as it is; empty where it is absent."""
        return self._take(key, "an object", dict) or {}

    def fields(self, key: str) -> Fields | None:
        """The fields of an inner object."""
        value: dict[str, Any] | None = self._take(key, "an object", dict)
        return None if value is None else self.inner(key, value)

    def inner(self, key: str, value: Any) -> Fields:
        """The fields of a value that stands under a key."""
        return Fields(value, self.path(key), self.damage)

    def report(self, kind: DamageKind, key: str, value: Any, expected: str) -> None:
        """Record damage in a field."""
        self._report(kind, self.path(key), value, expected)

    def keep_unread(self, key: str, inner: Fields) -> None:
        """Put what is unread of an inner object back under its key."""
        if inner.unread:
            self.unread[key] = inner.unread

    def _take(self, key: str, expected: str, *types: type[Any]) -> Any:
        value = self.unread.pop(key, None)
        if value is None or type(value) in types:
            return value
        self._report("wrong-type", self.path(key), value, expected)
        return None

    def _report(self, kind: DamageKind, where: str, value: Any, expected: str) -> None:
        self.damage.append(WireDamage(kind, where, value, expected))


def find_unwritten(body: Mapping[str, Any], written: Mapping[str, Any]) -> dict[str, Any]:
    """What a body holds beyond a written form of it: the fields that differ, and None for fields of that form alone."""
    extra: dict[str, Any] = {}
    for name, value in body.items():
        if value is None or (name in written and written[name] == value):
            continue
        inner = written.get(name)
        is_nested = isinstance(value, Mapping) and isinstance(inner, Mapping)
        difference = find_unwritten(value, inner) if is_nested else value  # type: ignore[arg-type]
        if difference or not is_nested:
            extra[name] = difference
    return extra | {name: None for name, value in written.items() if value is not None and body.get(name) is None}


def merge_extra(body: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """A body with what rides along: objects are merged, else what rides along counts, and its None deletes a field."""
    merged = dict(body)
    for name, value in extra.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(name), Mapping)
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_extra(merged[name], value) if both else value
    return merged


def restore_extra(
    body: Mapping[str, Any], extra: Mapping[str, Any], is_same: Callable[[dict[str, Any]], bool]
) -> dict[str, Any]:
    """A written body with what rides along, as long as the result still reads as the same noun.

    A noun that was changed after it was read gets only the fields that its written body lacks.
    """
    merged = merge_extra(body, extra)
    if not extra or is_same(merged):
        return merged
    return merge_extra(body, {name: value for name, value in extra.items() if name not in body and value is not None})


def restore_unchanged(
    body: Mapping[str, Any], extra: Mapping[str, Any], is_same: Callable[[dict[str, Any]], bool]
) -> dict[str, Any]:
    """``restore_extra`` for a noun that was only just read: there is nothing to check."""
    return merge_extra(body, extra)


Restore = Callable[[Mapping[str, Any], Mapping[str, Any], Callable[[dict[str, Any]], bool]], dict[str, Any]]
"""``restore_extra`` or ``restore_unchanged``."""


def as_mapping(value: Any) -> Mapping[str, Any]:
    """A value that is an object as it is, and any other value as an empty one."""
    return value if isinstance(value, Mapping) else {}


def parse_json(text: str | bytes, default: Any = None) -> Any:
    """The JSON value of a text without lone surrogates, or the default where the text is not JSON."""
    try:
        value = json.loads(text)
        has_escapes = (b"\\u" if isinstance(text, bytes) else "\\u") in text  # type: ignore[operator]
        return replace_surrogates(value) if has_escapes else value
    except (ValueError, RecursionError):
        return default


def replace_surrogates(value: Any) -> Any:
    """A JSON value without lone surrogates, which cannot be written as UTF-8."""
    json_text = json.dumps(value, ensure_ascii=False)
    try:
        json_text.encode()
    except UnicodeEncodeError:
        return json.loads(json_text.encode("utf-8", "replace"))
    return value


def to_json(value: Any, *, ascii: bool = False) -> str:
    """A value as JSON; a value that JSON cannot hold gives the name of its type in brackets."""
    try:
        return json.dumps(value, ensure_ascii=ascii)
    except (ValueError, TypeError, RecursionError):
        return f"[{type(value).__name__}]"

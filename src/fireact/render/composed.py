"""Special tokens that a chat template composes of its own text and of texts that it is given.

A template writes ``<{{ key }}>``, drops line breaks, or strips a mark, so a text that spells no special token becomes
one within the rendered chat. A chat with such a text is rendered once more with that text made harmless: where the
special tokens differ, the text is broken up, and where that does not help either, it is refused. Invariant: a chat in
which no text can be part of a special token is rendered once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from fireact.errors import FormatError

Render = Callable[[Any, Any], str]
"""The text of messages and tools."""
_STRUCTURE = frozenset(
    {"role", "content", "name", "type", "function", "description", "parameters", "properties", "required", "enum",
     "items", "arguments", "tool_calls", "tool_call_id", "id", "default", "title", "anyOf", "oneOf", "allOf", "$ref",
     "$defs", "additionalProperties", "format", "minimum", "maximum", "return", "strict"}
)  # fmt: skip
"""Keys that templates look up."""
_CONSTANT_FIELDS = ("role", "type")
"""Keys whose values templates compare, where these are of ``_CONSTANTS``."""
_CONSTANTS = frozenset(
    {"system", "user", "assistant", "tool", "developer", "function", "string", "object", "array", "number", "integer",
     "boolean", "null"}
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _TokenParts:
    """What a text holds that can become a special token: ``pieces`` of one, or an edge beside the template's text.

    ``first`` and ``last`` match the characters that a special token begins and ends with.
    """

    tokens: tuple[str, ...]
    pieces: frozenset[str]
    heads: tuple[str, ...]
    tails: tuple[str, ...]
    first: re.Pattern[str]
    last: re.Pattern[str]
    filler: str

    def can_complete(self, text: str) -> bool:
        """Whether a template could make a special token of this text."""
        text = text.strip().casefold()
        return text in self.pieces or text.startswith(self.tails) or text.endswith(self.heads) or self._holds(text)

    def _holds(self, text: str) -> bool:
        """Whether a special token stays where other characters are taken out of the text."""
        return any(_is_subsequence(token, text) for token in self.tokens if token[0] in text)

    def disarm(self, text: str) -> str:
        """The text without what a special token could be made of."""
        if text.strip().casefold() in self.pieces:
            return self.filler * len(text)
        return self.last.sub(self.filler, self.first.sub(self.filler, text))

    def break_up(self, text: str) -> str:
        """The text with spaces within what could become a special token."""
        if (core := text.strip()).casefold() in self.pieces:
            return text.replace(core, f"{core[0]} {core[1:]}")
        return self.last.sub(r" \g<0>", self.first.sub(r"\g<0> ", text))


def render_chat_safely(
    render: Render, messages: Any, tools: Any, *, pattern: re.Pattern[str], tokens: tuple[str, ...]
) -> str:
    """The text of a chat, in which ``pattern`` matches the special tokens that the template writes itself.

    Raises FormatError for a text that the template makes a special token of, however it is broken up.
    """
    text = render(messages, tools)
    parts = _collect_parts(tokens)
    suspects = [suspect for suspect in _iterate_texts([messages, tools]) if _is_suspect(suspect, tokens)]
    if not suspects:
        return text
    change = _TextChange(parts.can_complete, parts.disarm, pattern)
    expected = pattern.findall(render(change.apply(messages), change.apply(tools)))
    if pattern.findall(text) == expected:
        return text
    change = _TextChange(parts.can_complete, parts.break_up, pattern)
    text = render(change.apply(messages), change.apply(tools))
    if pattern.findall(text) == expected:
        return text
    raise FormatError(
        f"the chat template makes a special token of a text such as {suspects[0][:80]!r}. Rename the parameter or "
        "leave the text out, or choose a student with another template."
    )


@dataclass(frozen=True, slots=True)
class _TextChange:
    """A change of every text that ``applies``, but for the tags of the template that the student wrote itself."""

    applies: Callable[[str], bool]
    change: Callable[[str], str]
    pattern: re.Pattern[str]

    def apply(self, value: Any, field: str = "") -> Any:
        if isinstance(value, str):
            return value if _is_constant(value, field) else self._change_text(value)
        if isinstance(value, Mapping):
            changed: dict[str, Any] = {}
            for key, item in value.items():
                new_key = key if key in _STRUCTURE else self._change_text(key)
                while new_key in changed:
                    new_key += new_key[-1:]
                changed[new_key] = self.apply(item, key)
            return changed
        return [self.apply(item, field) for item in value] if isinstance(value, list | tuple) else value

    def _change_text(self, text: str) -> str:
        if not self.applies(text):
            return text
        tags = [*self.pattern.findall(text), ""]
        between = self.pattern.split(text)
        return "".join(self.change(part) + tag for part, tag in zip(between, tags, strict=True))


def _iterate_texts(value: Any, field: str = "") -> Iterator[str]:
    """Every text that other people chose."""
    if isinstance(value, str):
        if not _is_constant(value, field):
            yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if key not in _STRUCTURE:
                yield key
            yield from _iterate_texts(item, key)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _iterate_texts(item, field)


def _is_constant(value: str, field: str) -> bool:
    return field in _CONSTANT_FIELDS and value in _CONSTANTS


def _is_subsequence(token: str, text: str) -> bool:
    characters = iter(text)
    return all(character in characters for character in token)


@lru_cache(maxsize=512)
def _is_suspect(text: str, tokens: tuple[str, ...]) -> bool:
    """A chat is rendered once a turn, so its texts come again and again."""
    return _collect_parts(tokens).can_complete(text)


@lru_cache(maxsize=32)
def _collect_parts(tokens: tuple[str, ...]) -> _TokenParts:
    folded = tuple(token.casefold() for token in tokens if token)
    used = set("".join(folded))
    filler = next(character for character in "xqzjkwvyuQZJKWVYU0·" if character.casefold() not in used)
    return _TokenParts(
        tokens=folded,
        pieces=frozenset(
            token[start:end]
            for token in folded
            for start in range(len(token))
            for end in range(start + 1, len(token) + 1)
        ),
        heads=tuple({token[:end] for token in folded for end in range(1, len(token))}),
        tails=tuple({token[start:] for token in folded for start in range(1, len(token))}),
        first=_match_any(token[0] for token in folded),
        last=_match_any(token[-1] for token in folded),
        filler=filler,
    )


def _match_any(characters: Iterable[str]) -> re.Pattern[str]:
    unique = sorted(set(characters))
    return re.compile("|".join(map(re.escape, unique)) or r"(?!)", re.IGNORECASE)

"""Why an endpoint refuses a request: its own words, and how far the refusal reaches.

A refusal concerns one prompt (too long, flagged), every call (key, credit, model), or one parameter (``adaptation``).
Servers say it in many shapes: ``error.message``, ``message.detail``, ``detail`` as a list, ``error`` as text, a list of
errors, JSON within a text, plain text or HTML. Invariant: reading is total; a refusal has words, and they hold no key.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from fireact.base.http import is_transient
from fireact.base.redact import excerpt
from fireact.wire.fields import parse_json

_MAX_CHARS = 600
_WORD_KEYS = (
    "message", "msg", "detail", "details", "error", "errors", "error_description", "title", "reason", "reasons", "raw",
    "metadata", "innererror", "description",
)  # fmt: skip
"""Keys of an error under which words stand, in the order in which they are shown."""
_CODE_KEYS = ("code", "type", "status", "error_code")
_NAME_KEYS = ("param", "loc", "field")
_TOO_LONG = re.compile(
    r"context[ _-]?(?:length|size|window|limit)|model's context\b|a longer context"
    r"|longer than (?:the )?(?:model|max)"
    r"|\b(?:prompt|inputs?|messages?|conversation|request)\b.{0,60}\b(?:too (?:long|large|big)|exceed)"
    r"|exceed\w{0,3}\b.{0,60}\b(?:tokens?|length)\b|too many (?:input |prompt )?tokens|token (?:limit|count)"
    r"|reduce (?:the|your) (?:length|prompt|input|number of tokens)|range of input length"
    r"|max(?:imum)?[ _](?:model|prompt|input|sequence|seq)[ _]len"
    r"|tokens\b.{0,60}\bmust be <|must have less than \d{1,12} tokens"
    r"|string_above_max_length|request_too_large"
    r"|\bmax_(?:completion_)?tokens\b.{0,60}\bgot -\d"  # what vLLM computes as room behind a prompt without room
)
_OF_PROMPT = re.compile(r"\b(?:inputs?|prompt|messages?|requested|your request|got -)")
"""Words about this prompt together with a limit, where others are about the limit itself."""
_FLAGGED = re.compile(
    r"content[ _-]?(?:policy|filter|management|moderation|violation|safety)|\bflagged\b|\bmoderation\b"
    r"|safety (?:system|filter|setting|reason)|inappropriate content|usage polic|responsibleai|data_inspection"
    r"|invalid_prompt|sensitive (?:word|content|information)|prohibited[ _]content|harmful content|敏感"
)
_EXHAUSTED = re.compile(
    r"insufficient[ _](?:quota|balance|credit|fund)|exceeded_current_quota|credit balance|billing_(?:hard_)?limit"
    r"|quota_exceeded|payment required|out of credits"
)
"""Words of an account without money. Gemini's limit a minute speaks of a quota too, which comes back by itself."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A reply that is an error: its status, 0 where it came within another reply; words; and names of fields."""

    status: int
    text: str
    codes: str = ""
    names: tuple[str, ...] = ()

    @property
    def is_about_prompt(self) -> bool:
        """Whether another prompt may pass: this one is too long, or flagged."""
        searched = f"{self.codes} {self.text}".lower()
        if self.status in (401, 402, 404) or self.is_exhausted:
            return False
        if self.status == 413:
            return True
        if self.status == 403:
            return _FLAGGED.search(searched) is not None
        if self.status == 429:  # "too many tokens" of a limit a minute goes by
            return "request too large" in searched
        if _FLAGGED.search(searched):
            return True
        is_limit_alone = "max_tokens" in searched and not _OF_PROMPT.search(searched)
        return _TOO_LONG.search(searched) is not None and not is_limit_alone

    @property
    def is_exhausted(self) -> bool:
        """Whether the account has no credit left."""
        return self.status == 402 or _EXHAUSTED.search(f"{self.codes} {self.text}".lower()) is not None

    @property
    def is_transient(self) -> bool:
        """Whether the next try may succeed."""
        return (not self.status or is_transient(self.status)) and not self.is_exhausted

    def find_name(self, candidates: Sequence[str]) -> str | None:
        """The candidate that the refusal names: as a field, in quotes, or as a word where it is not about a prompt."""
        fields = {word for field in self.names for word in re.split(r"\W+", field)}
        quoted = set(re.findall(r"[\"'`](\w{1,80})[\"'`]", self.text))
        words = set() if self.is_about_prompt else set(re.findall(r"(?<![\w-])\w+(?![\w-])", self.text))
        return next((name for names in (fields, quoted, words) for name in candidates if name in names), None)


def read_refusal(status: int, body: bytes | str) -> Refusal:
    """The refusal in a body of any shape; a status of 0 becomes the one that the body holds, where it holds one."""
    text = body.decode("utf-8", "replace") if isinstance(body, bytes) else body
    value = parse_json(text, text)
    words = "; ".join(dict.fromkeys(_iterate_words(value)))
    plain_text = " ".join(re.sub(r"<[^<>]{0,2000}>", " ", text).split())
    codes = list(_iterate_fields(value, _CODE_KEYS))
    numbers = [int(code) for code in codes if re.fullmatch(r"[45]\d\d", code)]
    return Refusal(
        status or next(iter(numbers), 0),
        excerpt(words or plain_text or "without a word", _MAX_CHARS),
        " ".join(codes)[:_MAX_CHARS],
        tuple(_iterate_fields(value, _NAME_KEYS)),
    )


def _iterate_words(value: Any, depth: int = 0) -> Iterator[str]:
    """The words of an error, also of one that stands as JSON within a text."""
    if depth > 8:
        return
    if isinstance(value, str):
        inner = parse_json(value) if value.lstrip().startswith(("{", "[")) else None
        if isinstance(inner, dict | list):
            yield from _iterate_words(inner, depth + 1)
        elif depth and value.strip():
            yield " ".join(value.split())
    elif isinstance(value, list):
        for item in value:
            yield from _iterate_words(item, depth + 1)
    elif isinstance(value, dict):
        location = value.get("loc")
        prefix = ".".join(map(str, location)) + ": " if isinstance(location, list) else ""
        for key in _WORD_KEYS:
            yield from (prefix + words for words in _iterate_words(value.get(key), depth + 1))


def _iterate_fields(value: Any, keys: Sequence[str], depth: int = 0) -> Iterator[str]:
    """The values of these keys, anywhere in an error, as text."""
    if isinstance(value, str) and value.lstrip().startswith(("{", "[")):
        value = parse_json(value)
    if depth > 8 or not isinstance(value, dict | list):
        return
    for key, item in value.items() if isinstance(value, dict) else ((None, item) for item in value):
        if key in keys and item is not None and not isinstance(item, dict):
            yield ".".join(map(str, item)) if isinstance(item, list) else str(item)
        else:
            yield from _iterate_fields(item, keys, depth + 1)

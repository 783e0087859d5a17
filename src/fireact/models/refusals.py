"""Why an endpoint refuses a request: its own words, and how far the refusal reaches.

A refusal concerns every call (key, credit, model), one prompt (too long, flagged), or one parameter (``adaptation``).
Servers say it in many shapes: ``error.message``, ``message.detail``, ``detail`` as a list, ``error`` as text, a list of
errors, JSON within a text, plain text or HTML. Invariant: reading is total; a refusal has words, and they hold no key.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from fireact.base.http import is_transient
from fireact.base.redact import excerpt
from fireact.wire.fields import parse_json

_MAX_CHARS = 600
_WORD_KEYS = (
    "message", "msg", "detail", "details", "error", "errors", "violations", "error_description", "title", "reason",
    "reasons", "raw", "metadata", "innererror", "description",
)  # fmt: skip
"""Keys of an error under which words stand, in the order in which they are shown."""
_CODE_KEYS = ("code", "type", "status", "error_code")
_NAME_KEYS = ("param", "loc", "field", "pointer", "propertyPath", "path", "parameter")
_KEYED_BY_FIELD = ("errors", "violations")
"""Keys of an error under which the names of fields may be keys."""
_ALIASES = {
    "max_new_tokens": "max_tokens", "max_output_tokens": "max_tokens", "max_completion_tokens": "max_tokens",
    "stop_sequences": "stop", "stop_words": "stop", "random_seed": "seed",
}  # fmt: skip
"""What servers call a parameter behind the API, and what it is called in a request."""
_CONTEXT = re.compile(
    r"context_length_exceeded|exceed_context_size|input_length_error"
    r"|context[ _-]?(?:length|size|window|limit)\b.{0,40}\b(?:exceed|too)|exceed\w{0,3}\b.{0,60}\bcontext\b"
)
"""Words that speak of the context even in a fault of the server."""
_TOO_LONG = re.compile(
    r"input_length_error|context[ _-]?(?:length|size|window|limit)|exceed_context_size|model's context\b"
    r"|a longer context|longer than (?:the )?(?:model|max)"
    r"|\b(?:prompt|inputs?|messages?|conversation|request)\b.{0,60}\b(?:too (?:long|large|big)|exceed)"
    r"|exceed\w{0,3}\b.{0,60}\b(?:tokens?|length)\b|too many (?:input |prompt )?tokens|token (?:limit|count)"
    r"|reduce (?:the|your) (?:length|prompt|input|number of tokens)|range of input length"
    r"|max(?:imum)?[ _](?:model|prompt|input|sequence|seq)[ _](?:len|char|token)|does not fit in the \w*\s?cache"
    r"|tokens\b.{0,60}\bmust be <|must have less than \d{1,12} tokens"
    r"|string_above_max_length|request_too_large|超长|(?:token|输入|长度|字符|prompt).{0,20}超[过出]"
    r"|\bmax_(?:completion_)?tokens\b.{0,60}\bgot -\d"  # what vLLM computes as room behind a prompt without room
)
_LIMIT_NAME = re.compile(r"max_(?:\w{1,12}_)?tokens")
_OF_PROMPT = re.compile(r"\binputs?\b(?! validation)|\b(?:prompt|messages?|requested|your request|got -)")
"""Words about this prompt together with a limit, where others are about the limit itself."""
_FLAGGED = re.compile(
    r"content[ _-]?(?:policy|filter|management|moderation|violation|safety)|\bflagged\b|\bmoderation\b"
    r"|safety (?:system|filter|setting|reason)|safety_check|inappropriate content|usage (?:polic|guideline)"
    r"|responsibleai|data_inspection|content exists risk|guardrail|prompt injection|jailbreak|triggered blocking"
    r"|invalid_prompt|sensitive (?:word|content|information)|prohibited[ _]content|harmful content|敏感|违规"
)
_ACCOUNT = re.compile(
    r"insufficient[ _](?:quota|balance|credit|fund)|exceeded_current_quota|credit balance|billing_(?:hard_)?limit"
    r"|quota_exceeded|payment required|out of credits|used all (?:available |your )?credits|spend(?:ing)? limit"
    r"|余额不足|欠费"
    r"|\b(?:account|api[ _-]?key|organi[sz]ation|workspace|team)\b.{0,30}\b(?:is|was|been)\b.{0,20}"
    r"\b(?:flagged|suspended|terminated|deactivated|disabled|banned|blocked|revoked|expired|leaked)"
    r"|(?:invalid|incorrect|wrong|expired|missing|unknown)[ _](?:api|auth\w*|access)[ _-]?(?:key|token)"
    r"|api[ _-]?key (?:is )?(?:not valid|invalid|incorrect|expired|missing)|authentication_error"
    r"|unknown model|no such model|model[ _]not[ _]found|\bmodel\b\W{0,3}\S{0,100} (?:does not exist|is not found)"
)
"""Words about an account, a key or a model. Gemini's limit a minute speaks of a quota too, which comes back by itself.
"""
_FINAL_CODE = re.compile(r"invalid_request|invalid_argument|unsupported|permission|not_found|forbidden|unauthori[sz]ed")
"""Codes of a reply of status 200 that no other try changes."""
_REFUSED_NAME = re.compile(
    r"(?<!\w)(\w{1,80})[\"'`]?(?: (?:parameter|field|argument|option|setting))? (?:is|are) "
    r"(?:not (?:supported|allowed|permitted|accepted|recognized|available)|unsupported|forbidden|unknown)"
    r"|(?:unsupported|unknown|unrecognized|unexpected) (?:parameter|field|argument|option|property|key)"
    r"\W{1,4}(\w{1,80})",
    re.ASCII | re.IGNORECASE,
)
"""A name that is itself refused, whatever else a message speaks of."""


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
        words = self._words
        if self.status in (401, 402, 404) or self.is_about_account:
            return False
        if self.status == 413:
            return True
        if self.status == 403:
            return _FLAGGED.search(words) is not None
        if self.status == 429:  # "too many tokens" of a limit a minute goes by
            return "request too large" in words
        if self.status >= 500:  # "queue length exceeded" and "moderation is unavailable" go by too
            return _CONTEXT.search(words) is not None
        if _FLAGGED.search(words):
            return True
        is_limit_alone = _LIMIT_NAME.search(words) is not None and not _OF_PROMPT.search(words)
        return _TOO_LONG.search(words) is not None and not is_limit_alone

    @property
    def is_about_account(self) -> bool:
        """Whether no call can succeed: the account has no credit left, or the key or the model is wrong."""
        return self.status == 402 or _ACCOUNT.search(self._words) is not None

    @property
    def is_transient(self) -> bool:
        """Whether the next try may succeed."""
        if self.is_about_account:
            return False
        return is_transient(self.status) if self.status else not _FINAL_CODE.search(self.codes.lower())

    def find_name(self, candidates: Sequence[str]) -> str | None:
        """The candidate that the refusal names: as a field, in quotes, or as a word where it is not about a prompt."""
        fields = {word for field in self.names for word in re.split(r"\W+", field)}
        quoted = set(re.findall(r"[\"'`](\w{1,80})[\"'`]", self.text))
        is_vague = self.is_about_prompt or not self.status
        words = set() if is_vague else set(re.findall(r"(?<![\w-])(?:--)?(\w+)(?![\w-])", self.text, re.ASCII))
        return next((name for names in (fields, quoted, words) if (name := _match_name(names, candidates))), None)

    def find_refused_name(self, candidates: Sequence[str]) -> str | None:
        """The candidate that the refusal says is not supported, also where it speaks of a prompt."""
        return _match_name({name for names in _REFUSED_NAME.findall(self.text) for name in names}, candidates)

    @property
    def _words(self) -> str:
        return f"{self.codes} {self.text}".lower()


def _match_name(names: Iterable[str], candidates: Sequence[str]) -> str | None:
    """The candidate that is among names, also in camel case, or by the name that it has behind the API."""
    spelled = {re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower() for name in names} | set(names)
    spelled_or_alias = spelled | {_ALIASES[name] for name in spelled if name in _ALIASES}
    return next((name for matching in (spelled, spelled_or_alias) for name in candidates if name in matching), None)


def read_refusal(status: int, body: bytes | str) -> Refusal:
    """The refusal in a body of any shape; a status of 0 becomes the one that the body holds, where it holds one."""
    text = body.decode(json.detect_encoding(body), "replace") if isinstance(body, bytes) else body
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
        location = value.get("loc") or value.get("propertyPath")
        prefix = ".".join(map(str, location)) if isinstance(location, list) else str(location or "")
        prefix += ": " if prefix else ""
        for key in _WORD_KEYS:
            yield from (prefix + words for words in _iterate_words(value.get(key), depth + 1))
            for name, item in _fields_below(key, value.get(key)):
                yield from (f"{name}: {words}" for words in _iterate_words(item, depth + 1))


def _fields_below(key: str | None, value: Any) -> Iterator[tuple[str, Any]]:
    """What stands below the names of fields, as in ``"errors": {"seed": ["unknown"]}``."""
    if key in _KEYED_BY_FIELD and isinstance(value, dict):
        yield from ((name, item) for name, item in value.items() if name not in (*_WORD_KEYS, *_CODE_KEYS))


def _iterate_fields(value: Any, keys: Sequence[str], depth: int = 0) -> Iterator[str]:
    """The values of these keys, anywhere in an error, as text."""
    if isinstance(value, str) and value.lstrip().startswith(("{", "[")):
        value = parse_json(value)
    if depth > 8 or not isinstance(value, dict | list):
        return
    for key, item in value.items() if isinstance(value, dict) else ((None, item) for item in value):
        if keys is _NAME_KEYS:
            yield from (name for name, _ in _fields_below(key, item))
        if key in keys and item is not None and not isinstance(item, dict):
            yield ".".join(map(str, item)) if isinstance(item, list) else str(item)
        else:
            yield from _iterate_fields(item, keys, depth + 1)

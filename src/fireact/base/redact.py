"""Finds and redacts keys, tokens and e-mail addresses in texts, and knows the secrets that are in use.

Whoever reads a secret gives it to ``guard_secret``; ``hide_secrets`` then takes it out of every text that leaves the
process: messages, observations, stored calls and all files of lines. Invariant: what ``find_sensitive`` returns is too
short to be used as a key. ``excerpt`` redacts before it cuts, since a key that is cut in two is no longer recognised.
This module knows nothing of where a text comes from.
"""

from __future__ import annotations

import base64
import functools
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, quote_plus

SensitiveMatch = tuple[str, str]
"""The kind of a sensitive string, and a short excerpt of it."""

_KEYS = re.compile(
    r"\bsk-[A-Za-z0-9_-]{20,}|\bAKIA[0-9A-Z]{16}\b|\bgh[pousr]_[A-Za-z0-9]{30,}|\bgithub_pat_[A-Za-z0-9_]{40,}"
    r"|\bhf_[A-Za-z0-9]{30,}|\bAIza[0-9A-Za-z_-]{35}|\bxox[abprs]-[A-Za-z0-9-]{10,}|\bglpat-[A-Za-z0-9_-]{20,}"
    r"|-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----(?:[A-Za-z0-9+/=\s]{0,8000}-----END [A-Z ]{0,30}PRIVATE KEY-----)?"
    r"|\b[Bb]earer [A-Za-z0-9._~+/-]{20,}|\b[sr]k_live_[A-Za-z0-9]{16,}|\bnpm_[A-Za-z0-9]{30,}"
    r"|\beyJ[A-Za-z0-9_-]{8,2000}\.eyJ[A-Za-z0-9_-]{8,8000}\.[A-Za-z0-9_-]{8,2000}"
    r"|https://hooks\.slack\.com/services/[A-Za-z0-9/]{20,}"
    r"|(?<=aws_secret_access_key)\s{0,3}[=:]\s{0,3}[\"']?[A-Za-z0-9/+]{40}"
)
_MAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,4}\b")
_MARKS = (
    "sk-", "AKIA", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "hf_", "AIza", "xox", "glpat-", "PRIVATE KEY",
    "earer ", "k_live_", "npm_", "eyJ", "hooks.slack.com", "aws_secret_access_key",
)  # fmt: skip
"""Every key contains one of these: a search for them is far faster than the regular expression."""
_QUOTED = re.compile(r"%[0-9A-F]{2}")
_SECRET_NAME = re.compile(
    r"auth(?!or(?!i[sz]))|cookie|key|token|secret|passw|passphrase|signature|credential|\Asig\Z|\Acode\Z", re.IGNORECASE
)
_MIN_SECRET = 8
"""Characters of a secret that is looked for; a shorter one, such as "none", may stand in any text."""
_SEPARATORS = re.compile(r"[\s;,=]+")
_MIN_HEADER_SECRET = 16
"""Characters of a secret in a header; a shorter one ("not-needed") is a placeholder, and perhaps a word of a text."""
_GUARDED: list[str] = []
"""The forms in which a text may hold a secret in use; the longest first, since one secret may begin with another."""
REDACTED = {"secret": "[key removed]", "e-mail address": "[e-mail removed]"}


def guard_secret(value: str) -> str:
    """Keep a secret out of every text from now on, and return it."""
    secret = value.strip()
    if len(secret) >= _MIN_SECRET and secret not in _GUARDED:
        _GUARDED[:] = sorted({*_GUARDED, *secret_forms(secret)}, key=len, reverse=True)
    return value


def is_secret_name(name: str) -> bool:
    """Whether a header or a query parameter of this name holds a secret."""
    return _SECRET_NAME.search(name) is not None


def secret_forms(secret: str) -> tuple[str, ...]:
    """The forms in which a text may hold a secret: as it is, in base64, or quoted for a URL or for JSON, also twice."""
    escaped = json.dumps(secret)[1:-1]
    quoted = quote(secret, safe="")
    forms = {secret, escaped, escaped.replace("/", "\\/"), repr(secret)[1:-1], json.dumps(escaped)[1:-1]}
    forms |= {escaped.replace("/", f"\\u002{digit}") for digit in "fF"}
    forms |= {quote(secret), quoted, quote_plus(secret), quote(quoted, safe="")}
    forms |= {_QUOTED.sub(lambda match: match[0].lower(), form) for form in (quote(secret), quoted, quote_plus(secret))}
    for offset in range(3):  # a base64 text looks different after each number of bytes before it
        encoded = base64.b64encode(bytes(offset) + secret.encode()).decode().rstrip("=")
        clean = encoded[(0, 2, 3)[offset] : len(encoded) - ((offset + len(secret.encode())) % 3 > 0)]
        forms |= {clean, clean.translate(str.maketrans("+/", "-_"))}
    return tuple(sorted((form for form in forms if len(form) >= _MIN_SECRET), key=len, reverse=True))


@functools.lru_cache(maxsize=1000)
def list_header_secrets(values: tuple[str, ...]) -> tuple[bytes, ...]:
    """The secrets in the values of headers (a scheme and a key, or cookies), in the forms that a body may hold."""
    tokens = {token for value in values for token in (value.strip(), *_SEPARATORS.split(value))}
    secrets = {token for token in tokens if len(token) >= _MIN_HEADER_SECRET}
    secrets |= {password for value in values for password in _read_basic(value)}
    forms = {form for secret in secrets for form in secret_forms(secret)}
    return tuple(form.encode() for form in sorted(forms, key=len, reverse=True))


def _read_basic(value: str) -> tuple[str, ...]:
    """The name with its password, and the password alone, of ``Basic`` credentials."""
    scheme, _, encoded = value.strip().partition(" ")
    try:
        credentials = base64.b64decode(encoded, validate=True).decode() if scheme.lower() == "basic" else ""
    except ValueError:
        return ()
    _, colon, password = credentials.partition(":")
    return (credentials, password) if colon else ()


def hide_secrets(text: str) -> str:
    """A text without the secrets in use, in any of their forms."""
    for form in tuple(_GUARDED):
        if form in text:
            text = text.replace(form, REDACTED["secret"])
    return text


def iterate_strings(value: Any) -> Iterator[str]:
    """Every string within parsed JSON, keys too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield key
            yield from iterate_strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from iterate_strings(item)


def find_sensitive(text: str) -> Iterator[SensitiveMatch]:
    """The sensitive strings in a text: kind and excerpt, too short to be used but long enough to find the string."""
    if any(mark in text for mark in _MARKS):
        yield from (("secret", f"{match[0][:4]}...") for match in _KEYS.finditer(text))
    if "@" in text:
        yield from (("e-mail address", f"...@{match[0].rpartition('@')[2]}") for match in _MAIL.finditer(text))


def redact(value: Any) -> Any:
    """Parsed JSON with every sensitive string replaced by a note such as ``[key removed]``."""
    if isinstance(value, str):
        value = hide_secrets(value)
        without_keys = _KEYS.sub(REDACTED["secret"], value) if any(mark in value for mark in _MARKS) else value
        return _MAIL.sub(REDACTED["e-mail address"], without_keys) if "@" in without_keys else without_keys
    if isinstance(value, Mapping):
        return {redact(key): redact(item) for key, item in value.items()}
    return [redact(item) for item in value] if isinstance(value, list | tuple) else value


def excerpt(text: str | bytes, length: int) -> str:
    """The first characters of a text, redacted so that a message may quote them."""
    decoded = text.decode(errors="replace") if isinstance(text, bytes) else text
    return str(redact(decoded))[:length]

"""Keys, tokens and e-mail addresses in texts: found, blotted out, and kept out of what is said of a text.

Invariant: what ``sensitive`` says of a find is too little to use it, and ``excerpt`` blots before it cuts, since a key that
was cut in two is no longer recognised. It knows nothing of where a text stands.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

Found = tuple[str, str]
"""A kind, and what in particular."""

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
"""One of these stands in every key: looking for them first is far faster than the expression."""
BLOTTED = {"secret": "[key removed]", "e-mail address": "[e-mail removed]"}


def strings(value: Any) -> Iterator[str]:
    """Every text within parsed JSON, keys too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield key
            yield from strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from strings(item)


def sensitive(text: str) -> Iterator[Found]:
    """Kinds of sensitive strings in a text, with so little of each that it can be found but not used."""
    if any(mark in text for mark in _MARKS):
        yield from (("secret", f"{match[0][:4]}...") for match in _KEYS.finditer(text))
    if "@" in text:
        yield from (("e-mail address", f"...@{match[0].rpartition('@')[2]}") for match in _MAIL.finditer(text))


def blotted(value: Any) -> Any:
    """Parsed JSON with every sensitive string replaced by a note."""
    if isinstance(value, str):
        kept = _KEYS.sub(BLOTTED["secret"], value) if any(mark in value for mark in _MARKS) else value
        return _MAIL.sub(BLOTTED["e-mail address"], kept) if "@" in kept else kept
    if isinstance(value, Mapping):
        return {blotted(key): blotted(item) for key, item in value.items()}
    return [blotted(item) for item in value] if isinstance(value, list | tuple) else value


def excerpt(text: str | bytes, length: int) -> str:
    """The first characters of a text as a message may quote them."""
    whole = text.decode(errors="replace") if isinstance(text, bytes) else text
    return str(blotted(whole))[:length]

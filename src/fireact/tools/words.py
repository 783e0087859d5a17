"""The words that ranking sees; indexing and queries take them apart in the same way.

Invariant: a text and a query that differ in case and accents alone have the same words.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata

WORD = re.compile(r"(?<!\w)[.+]\w+|\w+")
STOP = frozenset(
    (
        "a", "an", "and", "are", "as", "at", "be", "by", "for", "from", "has", "have", "in", "is", "it", "its", "of",
        "on", "or", "that", "the", "this", "to", "was", "what", "which", "who", "with",
    )
)  # fmt: skip
"""Words too common to rank by; ".is" and ".at" keep their dot and are not among them."""
_FOREIGN = re.compile(r"[^\x00-\x7f]")


def words(text: str) -> list[str]:
    """The words that ranking sees, in lower case without accents: ".uz" and "+998" are words of their own."""
    text = text.lower()
    if not text.isascii():
        text = _FOREIGN.sub(_unmarked, unicodedata.normalize("NFKD", text))
    return [word for word in WORD.findall(text) if word not in STOP]


def _unmarked(match: re.Match[str]) -> str:
    return "" if unicodedata.combining(match[0]) else match[0]


def number_of(word: str) -> int:
    """A 64-bit hash that stands for the word in an index: two of a million words share one once in 10^8 corpora."""
    return int.from_bytes(hashlib.blake2b(word.encode("utf-8", "replace"), digest_size=8).digest(), "little")

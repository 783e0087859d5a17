"""Splits texts and queries into the words that are ranked.

Invariant: a text and a query that differ only in case and accents have the same words.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata

WORD = re.compile(r"(?<!\w)[.+]\w+|\w+")
STOP_WORDS = frozenset(
    (
        "a", "an", "and", "are", "as", "at", "be", "by", "for", "from", "has", "have", "in", "is", "it", "its", "of",
        "on", "or", "that", "the", "this", "to", "was", "what", "which", "who", "with",
    )
)  # fmt: skip
"""Words too common for ranking; ".is" and ".at" keep their dot, so they are not among them."""
_FOREIGN = re.compile(r"[^\x00-\x7f]")


def split_words(text: str) -> list[str]:
    """The words of a text for ranking, in lower case and without accents; ".uz" and "+998" are single words."""
    text = text.lower()
    if not text.isascii():
        text = _FOREIGN.sub(_drop_accent, unicodedata.normalize("NFKD", text))
    return [word for word in WORD.findall(text) if word not in STOP_WORDS]


def _drop_accent(match: re.Match[str]) -> str:
    return "" if unicodedata.combining(match[0]) else match[0]


def hash_word(word: str) -> int:
    """The 64-bit hash of a word in an index.

    A million words contain two with the same hash in about one of 10^8 corpora.
    """
    return int.from_bytes(hashlib.blake2b(word.encode("utf-8", "replace"), digest_size=8).digest(), "little")

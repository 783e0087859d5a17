"""Splits texts and queries into the words that are ranked, and makes the snippet of a page that fits a query best.

Invariant: a text and a query that differ only in case and accents have the same words. A snippet is one line of at most
``MAX_WORDS`` words, whatever the text.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable

from fireact.world.corpus import Article

WORD = re.compile(r"(?<!\w)[.+]\w+|\w+")
STOP_WORDS = frozenset(
    (
        "a", "an", "and", "are", "as", "at", "be", "by", "for", "from", "has", "have", "in", "is", "it", "its", "of",
        "on", "or", "that", "the", "this", "to", "was", "what", "which", "who", "with",
    )
)  # fmt: skip
"""Words too common for ranking; ".is" and ".at" keep their dot, so they are not among them."""
MAX_WORDS = 45
SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[^a-z])|\n\s*\n")
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


def make_snippet(article: Article, query_words: Iterable[str]) -> str:
    """The article's title and its sentence that shares most words with the query, cut at ``MAX_WORDS``."""
    distinct_words = set(query_words)
    best_sentence = max(
        SENTENCE.split(article.text), key=lambda sentence: len(distinct_words.intersection(split_words(sentence)))
    )
    title = f"{article.title}: " if article.title else ""
    return " ".join(f"{title}{best_sentence}".split()[:MAX_WORDS])

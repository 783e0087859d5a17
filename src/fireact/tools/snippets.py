"""Snippets: what a web search engine shows of a page, its title and the sentence that fits the query best.

Invariant: a snippet is one line of at most ``MAX_WORDS`` words, whatever the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from fireact.tools.words import words
from fireact.world.corpus import Article

MAX_WORDS = 45
SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[^a-z])|\n\s*\n")


def snippet(article: Article, wanted: Iterable[str]) -> str:
    """The article's title and its sentence that shares most words with the query, cut at ``MAX_WORDS``."""
    want = set(wanted)
    best = max(SENTENCE.split(article.text), key=lambda sentence: len(want.intersection(words(sentence))))
    title = f"{article.title}: " if article.title else ""
    return " ".join(f"{title}{best}".split()[:MAX_WORDS])

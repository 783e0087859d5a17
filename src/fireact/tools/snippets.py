"""Snippets in the style of a web search engine: a page's title and its sentence that fits the query best.

Invariant: a snippet is one line of at most ``MAX_WORDS`` words, whatever the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from fireact.tools.words import split_words
from fireact.world.corpus import Article

MAX_WORDS = 45
SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[^a-z])|\n\s*\n")


def make_snippet(article: Article, query_words: Iterable[str]) -> str:
    """The article's title and its sentence that shares most words with the query, cut at ``MAX_WORDS``."""
    distinct_words = set(query_words)
    best_sentence = max(
        SENTENCE.split(article.text), key=lambda sentence: len(distinct_words.intersection(split_words(sentence)))
    )
    title = f"{article.title}: " if article.title else ""
    return " ".join(f"{title}{best_sentence}".split()[:MAX_WORDS])

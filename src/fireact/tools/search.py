"""``search``: BM25 over a corpus of short articles, answered by one snippet as a web search engine would.

Invariant: the answer is a function of the query, the corpus and the options that ``fingerprint`` covers, and of
nothing else. It never fails on a query: one that finds nothing says so.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

from fireact.world.corpus import Article, articles

_WORD = re.compile(r"(?<!\w)[.+]\w+|\w+")
_SENTENCE = re.compile(r"(?<=[.!?]) +(?=[^a-z])")
_STOP = frozenset("a an and are as at be by for from has have in is it its of on or that the this to was what which who with".split())
"""Words too common to rank by; ".is" and ".at" keep their dot and are not among them."""
MAX_WORDS = 45
CANDIDATES = 10
"""Articles that BM25 ranks first; of these the one with most of the query's words wins, then the higher score."""


class Search:
    """Ranks articles by BM25 and the words they share with the query, and returns the best one's fitting sentence."""

    name = "search"
    description = "looks the query up in an encyclopedia and returns the passage that fits best"
    parameters: Mapping[str, Any] = {
        "type": "object",
        "properties": {"query": {"type": "string", "description": "what to look for"}},
        "required": ["query"],
    }

    def __init__(self, corpus: Sequence[Article]) -> None:
        import bm25s

        self._articles = tuple(corpus)
        self._lock = threading.Lock()
        self._ranker = bm25s.BM25()
        indexed = [words(f"{article.title} {article.text}") for article in corpus]
        self._ranker.index(indexed, show_progress=False)
        self._words = [frozenset(found) for found in indexed]
        self._known = frozenset(self._ranker.vocab_dict)

    def __call__(self, **arguments: Any) -> str:
        query = str(arguments["query"])
        wanted = [word for word in words(query) if word in self._known]
        if not wanted:
            return f"No results found for {query[:80]!r}."
        with self._lock:
            scores = self._ranker.get_scores(wanted)
        best = max(scores.argsort()[-CANDIDATES:], key=lambda at: (len(self._words[at].intersection(wanted)), scores[at]))
        return snippet(self._articles[best], wanted)

    @property
    def fingerprint(self) -> str:
        """Identifies the ranker, its version, the corpus and the options: numbers with another one do not compare."""
        facts = ["bm25s", version("bm25s"), MAX_WORDS, CANDIDATES, sorted(_STOP), _WORD.pattern, [[a.title, a.text] for a in self._articles]]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def words(text: str) -> list[str]:
    """The words that ranking sees, lower-cased: ".uz" and "+998" are words of their own."""
    return [word for word in _WORD.findall(text.lower()) if word not in _STOP]


def snippet(article: Article, wanted: Iterable[str]) -> str:
    """The article's title and its sentence that shares most words with the query, cut at ``MAX_WORDS``."""
    want = set(wanted)
    best = max(_SENTENCE.split(article.text), key=lambda sentence: len(want.intersection(words(sentence))))
    return " ".join(f"{article.title}: {best}".split()[:MAX_WORDS])


def geo_search() -> Search:
    """Search over the articles of the embedded world."""
    return Search(articles())

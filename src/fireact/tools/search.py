"""``search``: BM25 over a corpus, answered by one snippet as a web search engine would, or by whole passages.

    search                        the articles of the embedded world
    search:PATH                   JSONL of {title, text}, a folder of text and Markdown, or one JSON of articles
    search:PATH?results=3         the snippets of the three best passages, one a line
    search:PATH?passages=3        the three best passages whole

Invariant: the answer is a function of the query, the corpus and the options that ``fingerprint`` covers, and of
nothing else. It never fails on a query: one that finds nothing says so. Safe to call from many threads. The index is
built once, by one process, kept in the user's cache, and mapped into memory from then on.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, overload
from urllib.parse import parse_qsl

from fireact.errors import ConfigError, unknown
from fireact.models.weights import cache_directory
from fireact.tools import corpus as corpora
from fireact.tools.index import Index, kept
from fireact.tools.indexing import LAYOUT
from fireact.tools.snippets import MAX_WORDS, SENTENCE, snippet
from fireact.tools.words import STOP, WORD, words
from fireact.world.corpus import Article, articles

CANDIDATES = 10
"""Passages that BM25 ranks first; of these the one with most of the query's words wins, then its title counts."""
_ECHOED = 80
"""Letters of a query that an answer without results repeats."""


class Search:
    """Ranks passages by BM25 and the words they share with the query, and returns the best one's fitting sentence."""

    name = "search"
    description = "looks the query up in an encyclopedia and returns the passage that fits best"
    parameters: Mapping[str, Any] = {
        "type": "object",
        "properties": {"query": {"type": "string", "description": "what to look for"}},
        "required": ["query"],
    }
    keeps_time = True

    def __init__(self, index: Index, *, identity: str, results: int = 1, whole: bool = False) -> None:
        """Search an index; ``identity`` names its corpus, and ``whole`` returns passages instead of snippets."""
        self.index, self._results, self._whole = index, results, whole
        self._candidates = max(CANDIDATES, results)
        options = ["words, title words, score, place", MAX_WORDS, self._candidates, SENTENCE.pattern, results, whole]
        self.fingerprint = _digest(identity, options)

    @property
    def sample_queries(self) -> Sequence[str]:
        """The titles of the corpus, read when they are asked for: queries that others might have made."""
        return _Titles(self.index)

    def __call__(self, **arguments: Any) -> str:
        """What fits ``query``: snippets of at most ``MAX_WORDS`` words, one a line, or whole passages."""
        query = str(arguments["query"])
        wanted = words(query)
        found = [self.index.passage(at) for at in self.ranked(wanted)[: self._results]]
        if not found:
            return nothing(query)
        if self._whole:
            return "\n\n".join(f"{article.title}\n{article.text}".strip() for article in found)
        return "\n".join(snippet(article, wanted) for article in found)

    def ranked(self, wanted: list[str]) -> list[int]:
        """The numbers of the candidates for these words, best first; none where the corpus has none of them."""
        numbers = self.index.numbers(wanted)
        if not numbers:
            return []
        best = self.index.best(numbers, self._candidates)
        shared = self.index.shared(numbers, [at for at, _ in best])
        ranks = [
            (-everywhere, -title, -score, at) for (everywhere, title), (at, score) in zip(shared, best, strict=True)
        ]
        return [rank[-1] for rank in sorted(ranks)]


class _Titles(Sequence[str]):
    """The titles of an index's passages."""

    def __init__(self, index: Index) -> None:
        self._index = index

    def __len__(self) -> int:
        return len(self._index)

    @overload
    def __getitem__(self, at: int) -> str: ...

    @overload
    def __getitem__(self, at: slice) -> list[str]: ...

    def __getitem__(self, at: int | slice) -> str | list[str]:
        if isinstance(at, slice):
            return [self[place] for place in range(*at.indices(len(self)))]
        if not -len(self) <= at < len(self):
            raise IndexError(at)
        return self._index.passage(at % len(self)).title


def nothing(query: str) -> str:
    """The observation where a search found nothing."""
    return f"No results found for {query[:_ECHOED]!r}."


def geo_search(cache_dir: Path | None = None) -> Search:
    """Search over the articles of the embedded world."""
    content = hashlib.sha256(json.dumps([[article.title, article.text] for article in articles()]).encode())
    return over(articles, content.hexdigest(), cache_dir, "the embedded world")


def corpus_search(path: Path, cache_dir: Path | None = None, *, results: int = 1, whole: bool = False) -> Search:
    """Search over a corpus of the user's. Raises ConfigError for its path, DataError for its content."""
    content = corpora.content_hash(path)
    return over(lambda: corpora.passages(path), content, cache_dir, str(path), results=results, whole=whole)


def from_name(argument: str = "") -> Search:
    """What ``search`` and ``search:PATH?OPTION=N`` mean. Raises ConfigError for an option that there is not."""
    path, separator, query = argument.rpartition("?")
    if not separator or Path(argument).exists():
        path, query = argument, ""
    options = _options(query)
    if path:
        return corpus_search(Path(path), **options)
    if options:
        raise ConfigError("search without a path takes no options. Give search:PATH?results=3, say.")
    return geo_search()


def _options(query: str) -> dict[str, Any]:
    given = dict(parse_qsl(query, keep_blank_values=True))
    for name, value in given.items():
        if name not in ("results", "passages"):
            raise unknown("option of search", name, ("results", "passages"))
        if not value.isdecimal() or not 1 <= int(value) <= 100:
            raise ConfigError(f"search takes {name}=1 to 100; {value!r} was given.")
    if len(given) > 1:
        raise ConfigError("search takes results=N (snippets) or passages=N (whole passages), not both.")
    return {"results": int(value), "whole": name == "passages"} if given else {}


def over(
    corpus: Callable[[], Iterable[Article]], content: str, cache_dir: Path | None, called: str, **options: Any
) -> Search:
    """Numbers with another identity do not compare: it covers the ranker, its version, the words and the corpus."""
    facts = ["bm25s", version("bm25s"), LAYOUT, corpora.PASSAGE_WORDS, sorted(STOP), WORD.pattern, content]
    identity = _digest(*facts)
    directory = (cache_dir or cache_directory() / "search") / f"bm25-{identity}"
    index = kept(corpus, directory, say=lambda line: print(f"Indexing {called}: {line}", file=sys.stderr, flush=True))
    return Search(index, identity=identity, **options)


def _digest(*facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]

"""``search``: BM25 over a corpus, which answers with one snippet like a web search engine, or with whole passages.

    search                        the articles of the embedded world
    search:PATH                   JSONL of {title, text}, a folder of text and Markdown, or one JSON of articles
    search:PATH?results=3         the snippets of the three best passages, one a line
    search:PATH?passages=3        the three best passages whole

Invariant: the answer depends only on the query, the corpus and the options, which ``fingerprint`` covers. No query
raises: one without results says so. Many threads may call it. One process builds the index once in the user's cache;
from then on it is mapped into memory.
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

from fireact.base.machine import cache_directory
from fireact.errors import ConfigError, unknown_name_error
from fireact.tools import corpus as corpora
from fireact.tools.index import Index, open_index
from fireact.tools.indexing import LAYOUT
from fireact.tools.words import MAX_WORDS, SENTENCE, STOP_WORDS, WORD, make_snippet, split_words
from fireact.world.corpus import Article, articles

CANDIDATES = 10
"""Passages that BM25 selects; they are re-ranked by the query words they contain, then by those in the title."""
_ECHOED_CHARS = 80
"""Characters of the query that an answer without results repeats."""


class Search:
    """Ranks passages by BM25 and by shared words, and returns the best one's sentence that fits the query."""

    name = "search"
    description = "looks the query up in an encyclopedia and returns the passage that fits best"
    parameters: Mapping[str, Any] = {
        "type": "object",
        "properties": {"query": {"type": "string", "description": "what to look for"}},
        "required": ["query"],
    }
    keeps_time = True

    def __init__(self, index: Index, *, identity: str, results: int = 1, whole_passages: bool = False) -> None:
        """Search an index; ``identity`` names its corpus, and ``whole`` returns passages instead of snippets."""
        self.index, self._results, self._whole = index, results, whole_passages
        self._candidates = max(CANDIDATES, results)
        options = [
            "words, title words, score, place",
            MAX_WORDS,
            self._candidates,
            SENTENCE.pattern,
            results,
            whole_passages,
        ]
        self.fingerprint = _digest(identity, options)

    @property
    def sample_queries(self) -> Sequence[str]:
        """The titles of the corpus, as other queries that an agent might make; they are read on demand."""
        return _Titles(self.index)

    def __call__(self, **arguments: Any) -> str:
        """The results of ``query``: snippets of at most ``MAX_WORDS`` words, one a line, or whole passages."""
        query = str(arguments["query"])
        query_words = split_words(query)
        best_articles = [self.index.passage(number) for number in self.rank(query_words)[: self._results]]
        if not best_articles:
            return no_results(query)
        if self._whole:
            return "\n\n".join(f"{article.title}\n{article.text}".strip() for article in best_articles)
        return "\n".join(make_snippet(article, query_words) for article in best_articles)

    def rank(self, query_words: list[str]) -> list[int]:
        """The numbers of the best passages for these words, best first; none if the corpus has none of the words."""
        numbers = self.index.word_numbers(query_words)
        if not numbers:
            return []
        candidates = self.index.best_passages(numbers, self._candidates)
        shared_words = self.index.shared_words(numbers, [number for number, _ in candidates])
        ranks = [
            (-everywhere, -title, -score, number)
            for (everywhere, title), (number, score) in zip(shared_words, candidates, strict=True)
        ]
        return [rank[-1] for rank in sorted(ranks)]


class _Titles(Sequence[str]):
    """The titles of an index's passages."""

    def __init__(self, index: Index) -> None:
        self._index = index

    def __len__(self) -> int:
        return len(self._index)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self._index.passage(index % len(self)).title


def no_results(query: str) -> str:
    """The observation for a search without results."""
    return f"No results found for {query[:_ECHOED_CHARS]!r}."


def build_geo_search(cache_dir: Path | None = None) -> Search:
    """Search over the articles of the embedded world."""
    content = hashlib.sha256(json.dumps([[article.title, article.text] for article in articles()]).encode())
    return open_search(articles, content.hexdigest(), cache_dir, "the embedded world")


def build_corpus_search(
    path: Path, cache_dir: Path | None = None, *, results: int = 1, whole_passages: bool = False
) -> Search:
    """Search over a user's corpus. Raises ConfigError for a bad path, DataError for bad content."""
    content = corpora.hash_corpus(path)
    return open_search(
        lambda: corpora.read_passages(path),
        content,
        cache_dir,
        str(path),
        results=results,
        whole_passages=whole_passages,
    )


def from_name(argument: str = "") -> Search:
    """The tool of ``search`` or ``search:PATH?OPTION=N``. Raises ConfigError for an unknown option."""
    path, separator, query = argument.rpartition("?")
    if not separator or Path(argument).exists():
        path, query = argument, ""
    options = _parse_options(query)
    if path:
        return build_corpus_search(Path(path), **options)
    if options:
        raise ConfigError("search without a path takes no options. Give search:PATH?results=3, say.")
    return build_geo_search()


def _parse_options(query: str) -> dict[str, Any]:
    options = dict(parse_qsl(query, keep_blank_values=True))
    for name, value in options.items():
        if name not in ("results", "passages"):
            raise unknown_name_error("option of search", name, ("results", "passages"))
        if not value.isdecimal() or not 1 <= int(value) <= 100:
            raise ConfigError(f"search takes {name}=1 to 100; {value!r} was given.")
    if len(options) > 1:
        raise ConfigError("search takes results=N (snippets) or passages=N (whole passages), not both.")
    return {"results": int(value), "whole_passages": name == "passages"} if options else {}


def open_search(
    corpus: Callable[[], Iterable[Article]], content: str, cache_dir: Path | None, called: str, **options: Any
) -> Search:
    """Open or build the index of a corpus; its identity covers the ranker, its version, the words and the corpus."""
    facts = ["bm25s", version("bm25s"), LAYOUT, corpora.PASSAGE_WORDS, sorted(STOP_WORDS), WORD.pattern, content]
    identity = _digest(*facts)
    directory = (cache_dir or cache_directory() / "search") / f"bm25-{identity}"
    index = open_index(
        corpus, directory, say=lambda line: print(f"Indexing {called}: {line}", file=sys.stderr, flush=True)
    )
    return Search(index, identity=identity, **options)


def _digest(*facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]

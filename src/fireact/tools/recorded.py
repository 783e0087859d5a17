"""``snippets:PATH``: a search tool that replays a search engine's answers from a run on disk.

PATH is a released evaluation run (.json), or JSON Lines of our own trajectories (as ``convert --to fireact`` writes
them). A recorded query gets its recorded answer; any other query gets the answer that fits it best, by BM25 over
recorded queries and answers.

Invariant: the answer depends only on the query and on the file, which ``fingerprint`` covers. Only calls of ``search``
are replayed. Two queries are the same when they differ only in case and white space, and the first answer to a query
counts. Calls of other tools and of models belong to ``call_cache``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fireact.base import jsonl
from fireact.base.run_directory import read_trajectories
from fireact.errors import ConfigError, DataError
from fireact.render.released_run import read_released_run
from fireact.tools.search import Search, no_results, open_search
from fireact.tools.words import split_words
from fireact.world.corpus import Article

EMPTY = "None"
"""The answer in released runs where the engine found nothing; it is replayed only to the same query."""


class RecordedSearch:
    """Recorded answers of a search engine; ``is_recorded`` tells whether a query was recorded."""

    name = Search.name
    description = "looks the query up on the web and returns a snippet of what was found"
    parameters: Mapping[str, Any] = Search.parameters
    keeps_time = True

    def __init__(self, answers: Mapping[str, str], cache_dir: Path | None = None) -> None:
        """``answers`` maps queries to answers. Raises DataError where there are none."""
        articles = [Article(query, answer) for query, answer in answers.items() if answer != EMPTY]
        if not articles:
            raise DataError("the run holds no search with an answer. Give a run whose agent searched.")
        self._answers: dict[str, str] = {}
        for query, answer in answers.items():
            self._answers.setdefault(_normalize(query), answer)
        content = hashlib.sha256(
            jsonl.dumps([[query, answer] for query, answer in answers.items()]).encode("utf-8", "replace")
        )
        self._search = open_search(lambda: articles, content.hexdigest(), cache_dir, "recorded answers")
        self.fingerprint = f"snippets-{self._search.fingerprint}"
        self.sample_queries = [article.title for article in articles]

    def is_recorded(self, query: str) -> bool:
        """Whether the run holds an answer to this query."""
        return _normalize(query) in self._answers

    def __call__(self, **arguments: Any) -> str:
        """The recorded answer to ``query``, or the one that fits it best."""
        query = str(arguments["query"])
        if self.is_recorded(query):
            return self._answers[_normalize(query)]
        ranked_numbers = self._search.rank(split_words(query))
        return self._search.index.passage(ranked_numbers[0]).text if ranked_numbers else no_results(query)


def from_name(argument: str = "") -> RecordedSearch:
    """The tool of ``snippets:PATH``. Raises ConfigError for a bad path, DataError for bad content."""
    path = Path(argument).expanduser()
    if not argument or not path.is_file():
        raise ConfigError(
            f"there is no run at {argument!r}. Give snippets:FILE with a released evaluation run (.json), "
            "or JSON Lines of trajectories (.jsonl)."
        )
    answers: dict[str, str] = {}
    for trajectory in read_released_run(path) if path.suffix == ".json" else read_trajectories(path):
        for step in trajectory.steps:
            query = step.action.arguments.get("query") if step.action and step.action.name == Search.name else None
            if query is not None and step.observation and step.noise is None:
                answers.setdefault(str(query), str(step.observation))
    return RecordedSearch(answers)


def _normalize(query: str) -> str:
    return " ".join(query.casefold().split())

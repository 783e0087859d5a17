"""``snippets:PATH``: a search tool that answers with what a search engine said in a run that is on disk.

PATH is a released evaluation run (.json), or JSON Lines of trajectories of our own (what ``convert --to fireact`` writes). A
query that was asked there gets the answer that it got there; any other gets the answer that fits it best, by BM25 over
recorded queries and answers.

Invariant: the answer is a function of the query and of the file that ``fingerprint`` covers. Only calls of ``search`` are
replayed, queries are the same where they differ in case and white space alone, and of two answers to one query the first
counts. Calls of other tools, and models, are ``cache``'s business.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fireact import jsonl
from fireact.errors import ConfigError, DataError
from fireact.tasks.released import read_released_run
from fireact.tools.search import Search, nothing, over
from fireact.tools.words import words
from fireact.types import Trajectory
from fireact.world.corpus import Article

EMPTY = "None"
"""What the released runs hold where the engine found nothing: replayed to the same query, never to another."""


class Snippets:
    """Recorded answers of a search engine; ``exact`` tells whether a query was recorded."""

    name = Search.name
    description = "looks the query up on the web and returns a snippet of what was found"
    parameters: Mapping[str, Any] = Search.parameters
    keeps_time = True

    def __init__(self, answers: Mapping[str, str], cache_dir: Path | None = None) -> None:
        """``answers`` maps queries to answers. Raises DataError where there are none."""
        found = [Article(asked, answer) for asked, answer in answers.items() if answer != EMPTY]
        if not found:
            raise DataError("the run holds no search with an answer. Give a run whose agent searched.")
        self._answers: dict[str, str] = {}
        for asked, answer in answers.items():
            self._answers.setdefault(_plain(asked), answer)
        content = hashlib.sha256(
            jsonl.dumps([[asked, answer] for asked, answer in answers.items()]).encode("utf-8", "replace")
        )
        self._ranked = over(lambda: found, content.hexdigest(), cache_dir, "recorded answers")
        self.fingerprint = f"snippets-{self._ranked.fingerprint}"
        self.sample_queries = [article.title for article in found]

    def exact(self, query: str) -> bool:
        """Whether this very query was asked in the run."""
        return _plain(query) in self._answers

    def __call__(self, **arguments: Any) -> str:
        """The recorded answer to ``query``, or the one that fits it best."""
        query = str(arguments["query"])
        if self.exact(query):
            return self._answers[_plain(query)]
        best = self._ranked.ranked(words(query))
        return self._ranked.index.passage(best[0]).text if best else nothing(query)


def from_name(argument: str = "") -> Snippets:
    """What ``snippets:PATH`` means. Raises ConfigError for the path, DataError for what the file holds."""
    path = Path(argument).expanduser()
    if not argument or not path.is_file():
        raise ConfigError(
            f"there is no run at {argument!r}. Give snippets:FILE with a released evaluation run (.json), or JSON Lines of "
            "trajectories (.jsonl)."
        )
    answers: dict[str, str] = {}
    for trajectory in _trajectories(path):
        for step in trajectory.steps:
            query = step.action.arguments.get("query") if step.action and step.action.name == Search.name else None
            if query is not None and step.observation and step.noise is None:
                answers.setdefault(str(query), str(step.observation))
    return Snippets(answers)


def _trajectories(path: Path) -> Iterable[Trajectory]:
    if path.suffix == ".json":
        yield from read_released_run(path)
        return
    for number, row in enumerate(jsonl.read(path), 1):
        try:
            yield Trajectory.from_dict(row)
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path}, entry {number}: not a trajectory ({error!r}).") from error


def _plain(query: str) -> str:
    return " ".join(query.casefold().split())

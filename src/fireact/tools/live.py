"""Search of the live web: Google through SerpAPI, as in the paper's released code, and Wikipedia without a key.

    serpapi             SERPAPI_API_KEY in the environment; SERPAPI_BASE_URL for another address
    serpapi:released    the same, where only the first result counts, as in the released code
    wikipedia           WIKIPEDIA_BASE_URL for another MediaWiki than the English Wikipedia

Invariant: an observation is one short text, and a query without results says so. The key is read from the environment
when the tool is built and is part of no message and no fingerprint. The web changes, so a fingerprint names only the
service and the way its answer is read. Faults of the service raise in its own words, and never become observations:
what concerns every call (a key, an account without searches) ends the run, anything else the episode.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, ClassVar
from urllib.parse import urlsplit

from fireact.base.http import HttpClient, Retry, TransientError
from fireact.base.keys import read_key
from fireact.base.redact import excerpt, guard_secret
from fireact.errors import ConfigError, FireactError, ProviderError
from fireact.tools.search import no_results
from fireact.tools.words import make_snippet, split_words
from fireact.world.corpus import Article

SERPAPI_URL = "https://serpapi.com/search"
WIKIPEDIA_URL = "https://en.wikipedia.org/w/api.php"
_ACCOUNT = re.compile(r"run out of|no searches|API key|account|unauthori[sz]ed|forbidden", re.IGNORECASE)
"""Words about a key or an account, which concern every call."""
_BUSY = re.compile(r"\A(?:maxlag|ratelimited|readonly|internal_api_error\w{0,80})\b")
"""Codes of MediaWiki for faults that pass."""
PAGES = 3
"""Pages in each request to Wikipedia; the first one with a text is used."""
MAX_BYTES = 4_000_000
"""The longest answer of a service."""
_QUERY = {
    "type": "object",
    "properties": {"query": {"type": "string", "description": "what to look for"}},
    "required": ["query"],
}


class WebService:
    """A web service that answers GET with a JSON object; ``seconds`` limits a whole try.

    Messages quote its words about an error, without keys, and never its address.
    """

    def __init__(self, name: str, url: str, *, seconds: float = 10.0, tries: int = 4, pause: float = 0.5) -> None:
        if urlsplit(url).scheme not in ("http", "https"):
            raise ConfigError(f"the address of {name} is not http or https. Set it to a URL such as http://host/path.")
        self.name, self.url = name, url
        agent = f"FireAct/{version('fireact')} (https://arxiv.org/abs/2310.05915; language agents by fine-tuning)"
        self._http = HttpClient(
            name,
            headers={"User-Agent": agent, "Accept": "application/json"},
            seconds=seconds,
            limits_try=True,
            max_bytes=MAX_BYTES,
            quotes_errors=True,
            retry=Retry(tries=tries, pause=pause, longest_wait=60.0),
        )

    def get(self, parameters: Mapping[str, str]) -> dict[str, Any]:
        """Request these parameters and return the answer.

        Raises ConfigError where the service refuses the key or has no searches left for it, ProviderError where it
        fails after all tries.
        """
        return self._http.retry(lambda: self._get_once(parameters))

    def refuse(self, words: str) -> FireactError:
        """The error for the service's words about one: as wide as its cause. Raises TransientError for a busy one."""
        text = f"{self.name}: {excerpt(' '.join(words.split()), 300)}"
        if _BUSY.search(words):
            raise TransientError(text)
        return ConfigError(f"{text} Check its key and account.") if _ACCOUNT.search(words) else ProviderError(text)

    def _get_once(self, parameters: Mapping[str, str]) -> dict[str, Any]:
        try:
            reply = self._http.send("GET", self.url, params=parameters)
        except TransientError as fault:
            if _ACCOUNT.search(str(fault)):
                raise self.refuse(str(fault)) from None
            raise
        if reply.status in (401, 403):
            raise ConfigError(
                f"{self.name} refused the call (status {reply.status}): {reply.error_text} Check its key."
            )
        if reply.status >= 300:
            raise ProviderError(f"{self.name} answered with status {reply.status}: {reply.error_text}")
        value = reply.json()
        if not isinstance(value, dict):
            raise ProviderError(f"{self.name} answered with a {type(value).__name__}; a JSON object was expected.")
        if words := _error_words(value.get("error")):
            raise self.refuse(words)
        return value


def _error_words(error: Any) -> str:
    """The words of an error in an answer; none where a search only has no results."""
    if isinstance(error, Mapping):
        error = ": ".join(str(error[key]) for key in ("code", "info", "message") if error.get(key)) or str(error)
    return "" if error is None or "any results" in str(error) else str(error)


@dataclass(frozen=True, slots=True)
class SerpAPI:
    """One Google search; returns the first of these that exists: answer, snippet, highlighted words, a result.

    With ``released`` only the first result counts, with a snippet or without, as in the released code.
    """

    service: WebService
    key: str = field(repr=False)
    released: bool = False
    name: str = "search"
    description: str = "searches the web and returns the answer or snippet that fits best"
    parameters: Mapping[str, Any] = field(default_factory=lambda: _QUERY)
    keeps_time: ClassVar[bool] = True

    def __post_init__(self) -> None:
        guard_secret(self.key)

    @property
    def fingerprint(self) -> str:
        extraction = 1 if self.released else 2
        return f"serpapi google.com us en, extraction {extraction}{_describe_address(self.service.url, SERPAPI_URL)}"

    def __call__(self, **arguments: Any) -> str:
        query = str(arguments["query"])
        if not query.strip():
            return no_results(query)
        answer = self.service.get({
            "engine": "google", "q": query, "google_domain": "google.com", "gl": "us", "hl": "en", "output": "json",
            "api_key": self.key,
        })  # fmt: skip
        extract = extract_snippet if self.released else find_snippet
        return extract(answer) or no_results(query)


def find_snippet(answer: Mapping[str, Any]) -> str | None:
    """The first text in SerpAPI's answer, in the order of the released code; a result without one is passed over."""
    results = answer.get("organic_results")
    for result in results if isinstance(results, list) and results else [None]:
        text = extract_snippet({"answer_box": _with_texts(answer.get("answer_box")), "organic_results": [result]})
        if text:
            return text
    return None


def _with_texts(box: Any) -> Mapping[str, Any]:
    """The fields of an answer box that hold something."""
    return {name: value for name, value in _first_mapping(box).items() if value not in (None, "", [])}


def extract_snippet(answer: Mapping[str, Any]) -> str | None:
    """The text that the released code takes from SerpAPI's answer (paper, section 3), or None."""
    box = _first_mapping(answer.get("answer_box"))
    highlighted = box.get("snippet_highlighted_words")
    if "answer" in box:
        value = box["answer"]
    elif "snippet" in box:
        value = box["snippet"]
    elif highlighted and isinstance(highlighted, list):
        value = highlighted[0]
    else:
        value = _first_mapping(answer.get("organic_results")).get("snippet")
    return None if value is None else " ".join(str(value).split()) or None


def _first_mapping(value: Any) -> Mapping[str, Any]:
    """An object, or the first of a list of them; SerpAPI sends either."""
    value = value[0] if isinstance(value, list) and value else value
    return value if isinstance(value, Mapping) else {}


@dataclass(frozen=True, slots=True)
class Wikipedia:
    """One Wikipedia search; returns the best page's title and the sentence of its introduction that fits the query."""

    service: WebService
    name: str = "search"
    description: str = "looks the query up in Wikipedia and returns the sentence that fits best"
    parameters: Mapping[str, Any] = field(default_factory=lambda: _QUERY)
    keeps_time: ClassVar[bool] = True

    @property
    def fingerprint(self) -> str:
        return (
            f"wikipedia en, {PAGES} pages, introductions, snippet 2{_describe_address(self.service.url, WIKIPEDIA_URL)}"
        )

    def __call__(self, **arguments: Any) -> str:
        query = str(arguments["query"])
        if not query.strip():
            return no_results(query)
        answer = self.service.get({
            "action": "query", "format": "json", "formatversion": "2", "generator": "search", "gsrsearch": query[:300],
            "gsrlimit": str(PAGES), "prop": "extracts|pageprops", "ppprop": "disambiguation", "exintro": "1",
            "explaintext": "1", "exlimit": str(PAGES), "redirects": "1",
        })  # fmt: skip
        for page in sorted(_ranked_pages(answer), key=_is_disambiguation):
            text = page.get("extract")
            if isinstance(text, str) and text.strip():
                return make_snippet(Article(str(page.get("title", "")), text.strip()), split_words(query))
        return no_results(query)


def _ranked_pages(answer: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The pages of an answer, best first; MediaWiki numbers them but lists them in another order."""
    query = answer.get("query")
    pages = query.get("pages") if isinstance(query, Mapping) else None
    usable = [page for page in pages if isinstance(page, Mapping)] if isinstance(pages, list) else []
    return sorted(usable, key=lambda page: index if isinstance(index := page.get("index"), int) else 1 << 30)


def _is_disambiguation(page: Mapping[str, Any]) -> bool:
    """Whether a page only lists what its title may mean; such a page is the last resort."""
    properties = page.get("pageprops")
    return isinstance(properties, Mapping) and "disambiguation" in properties


def serpapi(argument: str = "") -> SerpAPI:
    """Google by SerpAPI, with the key of SERPAPI_API_KEY. Raises ConfigError where that is needed and not set."""
    if argument not in ("", "released"):
        raise ConfigError(f"serpapi takes only 'released' after a colon, not {argument!r}. Write --tool serpapi.")
    url = os.environ.get("SERPAPI_BASE_URL") or SERPAPI_URL
    return SerpAPI(WebService("SerpAPI", url), read_key(url, "SERPAPI_API_KEY"), released=argument == "released")


def wikipedia(argument: str = "") -> Wikipedia:
    """Wikipedia, without a key."""
    if argument:
        raise ConfigError(f"wikipedia takes nothing after a colon; {argument!r} was given. Write --tool wikipedia.")
    return Wikipedia(WebService("Wikipedia", os.environ.get("WIKIPEDIA_BASE_URL") or WIKIPEDIA_URL))


def _describe_address(url: str, usual: str) -> str:
    return "" if url == usual else f" at {urlsplit(url).netloc.rpartition('@')[2]}"

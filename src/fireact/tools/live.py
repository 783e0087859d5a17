"""Search of the live web: Google through SerpAPI, as in the paper's released code, and Wikipedia without a key.

    serpapi       SERPAPI_API_KEY in the environment; SERPAPI_BASE_URL for another address
    wikipedia     WIKIPEDIA_BASE_URL for another MediaWiki than the English Wikipedia

Invariant: an observation is one short text, and a query without results says so. The key is read from the environment
when the tool is built and is part of no message and no fingerprint. The web changes, so a fingerprint names only the
service and the way its answer is read. Faults of the service raise, and never become observations.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, ClassVar
from urllib.parse import urlsplit

from fireact.base.http import HttpClient, Retry
from fireact.base.keys import read_key
from fireact.errors import ConfigError, ProviderError
from fireact.tools.search import no_results
from fireact.tools.snippets import make_snippet
from fireact.tools.words import split_words
from fireact.world.corpus import Article

SERPAPI_URL = "https://serpapi.com/search"
WIKIPEDIA_URL = "https://en.wikipedia.org/w/api.php"
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

    No message quotes its answer or its address, as both may hold a key.
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
            retry=Retry(tries=tries, pause=pause, longest_wait=60.0),
        )

    def get(self, parameters: Mapping[str, str]) -> dict[str, Any]:
        """Request these parameters and return the answer.

        Raises ConfigError where the service refuses the key, ProviderError where it fails after all tries.
        """
        return self._http.retry(lambda: self._get_once(parameters))

    def _get_once(self, parameters: Mapping[str, str]) -> dict[str, Any]:
        reply = self._http.send("GET", self.url, params=parameters)
        if reply.status in (401, 403):
            raise ConfigError(f"{self.name} refused the call (status {reply.status}). Check its key.")
        if reply.status >= 300:
            raise ProviderError(f"{self.name} answered with status {reply.status}.")
        value = reply.json()
        if not isinstance(value, dict):
            raise ProviderError(f"{self.name} answered with a {type(value).__name__}; a JSON object was expected.")
        return value


@dataclass(frozen=True, slots=True)
class SerpAPI:
    """One Google search; returns the first of these that exists: answer, snippet, highlighted words, first result."""

    service: WebService
    key: str = field(repr=False)
    name: str = "search"
    description: str = "searches the web and returns the answer or snippet that fits best"
    parameters: Mapping[str, Any] = field(default_factory=lambda: _QUERY)
    keeps_time: ClassVar[bool] = True

    @property
    def fingerprint(self) -> str:
        return f"serpapi google.com us en, extraction 1{_describe_address(self.service.url, SERPAPI_URL)}"

    def __call__(self, **arguments: Any) -> str:
        query = str(arguments["query"])
        if not query.strip():
            return no_results(query)
        answer = self.service.get({
            "engine": "google", "q": query, "google_domain": "google.com", "gl": "us", "hl": "en", "output": "json",
            "api_key": self.key,
        })  # fmt: skip
        if "error" in answer and "any results" not in str(answer["error"]):
            raise ProviderError(f"SerpAPI: {str(answer['error'])[:200].replace(self.key, '***')}")
        return extract_snippet(answer) or no_results(query)


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
            f"wikipedia en, {PAGES} pages, introductions, snippet 1{_describe_address(self.service.url, WIKIPEDIA_URL)}"
        )

    def __call__(self, **arguments: Any) -> str:
        query = str(arguments["query"])
        if not query.strip():
            return no_results(query)
        answer = self.service.get({
            "action": "query", "format": "json", "formatversion": "2", "generator": "search", "gsrsearch": query[:300],
            "gsrlimit": str(PAGES), "prop": "extracts", "exintro": "1", "explaintext": "1", "exlimit": str(PAGES),
            "redirects": "1",
        })  # fmt: skip
        if "error" in answer:
            error = answer["error"] if isinstance(answer["error"], Mapping) else {}
            raise ProviderError(f"Wikipedia: {error.get('code', 'error')}: {str(error.get('info', ''))[:200]}")
        for page in _ranked_pages(answer):
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


def serpapi(argument: str = "") -> SerpAPI:
    """Google by SerpAPI, with the key of SERPAPI_API_KEY. Raises ConfigError where that is needed and not set."""
    _refuse_argument("serpapi", argument)
    url = os.environ.get("SERPAPI_BASE_URL") or SERPAPI_URL
    return SerpAPI(WebService("SerpAPI", url), read_key(url, "SERPAPI_API_KEY"))


def wikipedia(argument: str = "") -> Wikipedia:
    """Wikipedia, without a key."""
    _refuse_argument("wikipedia", argument)
    return Wikipedia(WebService("Wikipedia", os.environ.get("WIKIPEDIA_BASE_URL") or WIKIPEDIA_URL))


def _refuse_argument(name: str, argument: str) -> None:
    if argument:
        raise ConfigError(f"{name} takes nothing after a colon; {argument!r} was given. Write --tool {name}.")


def _describe_address(url: str, usual: str) -> str:
    return "" if url == usual else f" at {urlsplit(url).netloc.rpartition('@')[2]}"

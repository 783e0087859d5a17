"""Search of the live web: Google through SerpAPI, as the released code of the paper does it, and Wikipedia without a key.

    serpapi       SERPAPI_API_KEY in the environment; SERPAPI_BASE_URL for another address
    wikipedia     WIKIPEDIA_BASE_URL for another MediaWiki than the English Wikipedia

Invariant: an observation is one short text, and a query that finds nothing says so. The key is read from the environment
when the tool is built and is part of no message and no fingerprint. What the web says changes: a fingerprint names the
service and how its answer is read, no more. Faults of the service are raised, never observed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar
from urllib.parse import urlsplit

from fireact.errors import ConfigError, ProviderError
from fireact.models.keys import key_of
from fireact.tools.search import nothing
from fireact.tools.snippets import snippet
from fireact.tools.web import Service
from fireact.tools.words import words
from fireact.world.corpus import Article

SERPAPI_URL = "https://serpapi.com/search"
WIKIPEDIA_URL = "https://en.wikipedia.org/w/api.php"
PAGES = 3
"""Pages that Wikipedia is asked for; the first one that has a text is shown."""
_QUERY = {
    "type": "object",
    "properties": {"query": {"type": "string", "description": "what to look for"}},
    "required": ["query"],
}


@dataclass(frozen=True, slots=True)
class SerpAPI:
    """One Google search; of its answer the first that there is: answer, snippet, highlighted words, first result."""

    service: Service
    key: str = field(repr=False)
    name: str = "search"
    description: str = "searches the web and returns the answer or snippet that fits best"
    parameters: Mapping[str, Any] = field(default_factory=lambda: _QUERY)
    keeps_time: ClassVar[bool] = True

    @property
    def fingerprint(self) -> str:
        return f"serpapi google.com us en, extraction 1{_elsewhere(self.service.url, SERPAPI_URL)}"

    def __call__(self, **arguments: Any) -> str:
        query = str(arguments["query"])
        if not query.strip():
            return nothing(query)
        found = self.service.get({
            "engine": "google", "q": query, "google_domain": "google.com", "gl": "us", "hl": "en", "output": "json",
            "api_key": self.key,
        })  # fmt: skip
        if "error" in found and "any results" not in str(found["error"]):
            raise ProviderError(f"SerpAPI: {str(found['error'])[:200].replace(self.key, '***')}")
        return extracted(found) or nothing(query)


def extracted(found: Mapping[str, Any]) -> str | None:
    """What the released code takes from SerpAPI's answer (paper, section 3): the first of the four, or None."""
    box = _first(found.get("answer_box"))
    highlighted = box.get("snippet_highlighted_words")
    if "answer" in box:
        value = box["answer"]
    elif "snippet" in box:
        value = box["snippet"]
    elif highlighted and isinstance(highlighted, list):
        value = highlighted[0]
    else:
        value = _first(found.get("organic_results")).get("snippet")
    return None if value is None else " ".join(str(value).split()) or None


def _first(part: Any) -> Mapping[str, Any]:
    """An object, or the first of a list of them; SerpAPI sends either."""
    part = part[0] if isinstance(part, list) and part else part
    return part if isinstance(part, Mapping) else {}


@dataclass(frozen=True, slots=True)
class Wikipedia:
    """One search of Wikipedia; the best page's title and the sentence of its introduction that fits the query."""

    service: Service
    name: str = "search"
    description: str = "looks the query up in Wikipedia and returns the sentence that fits best"
    parameters: Mapping[str, Any] = field(default_factory=lambda: _QUERY)
    keeps_time: ClassVar[bool] = True

    @property
    def fingerprint(self) -> str:
        return f"wikipedia en, {PAGES} pages, introductions, snippet 1{_elsewhere(self.service.url, WIKIPEDIA_URL)}"

    def __call__(self, **arguments: Any) -> str:
        query = str(arguments["query"])
        if not query.strip():
            return nothing(query)
        found = self.service.get({
            "action": "query", "format": "json", "formatversion": "2", "generator": "search", "gsrsearch": query[:300],
            "gsrlimit": str(PAGES), "prop": "extracts", "exintro": "1", "explaintext": "1", "exlimit": str(PAGES),
            "redirects": "1",
        })  # fmt: skip
        if "error" in found:
            error = found["error"] if isinstance(found["error"], Mapping) else {}
            raise ProviderError(f"Wikipedia: {error.get('code', 'error')}: {str(error.get('info', ''))[:200]}")
        for page in _pages(found):
            text = page.get("extract")
            if isinstance(text, str) and text.strip():
                return snippet(Article(str(page.get("title", "")), text.strip()), words(query))
        return nothing(query)


def _pages(found: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The pages of an answer, best first: MediaWiki lists them in another order and numbers them."""
    query = found.get("query")
    pages = query.get("pages") if isinstance(query, Mapping) else None
    usable = [page for page in pages if isinstance(page, Mapping)] if isinstance(pages, list) else []
    return sorted(usable, key=lambda page: index if isinstance(index := page.get("index"), int) else 1 << 30)


def serpapi(argument: str = "") -> SerpAPI:
    """Google by SerpAPI, with the key of SERPAPI_API_KEY. Raises ConfigError where that is needed and not set."""
    _no_argument("serpapi", argument)
    url = os.environ.get("SERPAPI_BASE_URL") or SERPAPI_URL
    return SerpAPI(Service("SerpAPI", url), key_of(url, "SERPAPI_API_KEY"))


def wikipedia(argument: str = "") -> Wikipedia:
    """Wikipedia, without a key."""
    _no_argument("wikipedia", argument)
    return Wikipedia(Service("Wikipedia", os.environ.get("WIKIPEDIA_BASE_URL") or WIKIPEDIA_URL))


def _no_argument(name: str, argument: str) -> None:
    if argument:
        raise ConfigError(f"{name} takes nothing after a colon; {argument!r} was given. Write --tool {name}.")


def _elsewhere(url: str, usual: str) -> str:
    return "" if url == usual else f" at {urlsplit(url).netloc.rpartition('@')[2]}"

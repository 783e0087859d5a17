"""Live search against local servers that answer in the shapes of SerpAPI and MediaWiki."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from fireact.base import names
from fireact.errors import ConfigError, FireactError, ProviderError
from fireact.tools.live import MAX_BYTES, SerpAPI, WebService, Wikipedia, extract_snippet

KEY = "secret-key-123"
ORGANIC = {
    "organic_results": [{"position": 1, "title": "Oslo", "snippet": "Oslo is  the\ncapital."}, {"snippet": "no"}]
}
BOX = {
    "type": "organic_result",
    "title": "Oslo",
    "snippet": "Oslo, since 1814.",
    "snippet_highlighted_words": ["Oslo", "b"],
}
PAGES = {
    "query": {
        "pages": [
            {"pageid": 2, "title": "Norway", "index": 2, "extract": "Norway is a country."},
            {
                "pageid": 1,
                "title": "Oslo",
                "index": 1,
                "extract": "Oslo lies at a fjord. It is the capital of Norway.\nShips.",
            },
        ]
    }
}

Reply = tuple[int, dict[str, str], bytes]


@contextmanager
def served(answer: Callable[[int, dict[str, list[str]]], Reply]) -> Iterator[tuple[str, list[BaseHTTPRequestHandler]]]:
    """A loopback server whose n-th answer ``answer(n, query)`` gives; yields its URL and what it was asked."""
    seen: list[BaseHTTPRequestHandler] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self)
            status, headers, body = answer(len(seen), parse_qs(urlsplit(self.path).query))
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            step = 1 if "X-Slow" in headers else len(body) or 1
            for at in range(0, len(body), step):
                self.wfile.write(body[at : at + step])
                if "X-Slow" in headers:
                    time.sleep(0.02)

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:
            pass

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/search", seen
    finally:
        server.shutdown()
        server.server_close()


def says(value: Any) -> Reply:
    return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()


def service(url: str, name: str = "SerpAPI", **options: Any) -> WebService:
    return WebService(name, url, **{"pause": 0.01, "seconds": 2.0, **options})


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({"answer_box": {**BOX, "answer": "Oslo"}, **ORGANIC}, "Oslo"),
        ({"answer_box": {"answer": 4.5}}, "4.5"),
        ({"answer_box": BOX, **ORGANIC}, "Oslo, since 1814."),
        ({"answer_box": {"snippet_highlighted_words": ["Oslo", "b"]}, **ORGANIC}, "Oslo"),
        ({"answer_box": {"type": "weather"}, **ORGANIC}, "Oslo is the capital."),
        ({"answer_box": [{"answer": "first"}, {"answer": "second"}]}, "first"),
        (ORGANIC, "Oslo is the capital."),
        ({"organic_results": [{"title": "no snippet"}, {"snippet": "second"}]}, None),
        ({"organic_results": []}, None),
        ({"answer_box": "odd", "organic_results": "odd"}, None),
        ({}, None),
    ],
)
def test_the_order_of_extraction_is_that_of_the_released_code(found: dict[str, Any], expected: str | None) -> None:
    assert extract_snippet(found) == expected


def test_serpapi_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(_: int, query: dict[str, list[str]]) -> Reply:
        assert query["api_key"] == [KEY] and query["engine"] == ["google"]
        if query["q"] == ["nothing"]:
            return says({"error": "Google hasn't returned any results for this query."})
        return says(ORGANIC)

    with served(answer) as (url, seen):
        monkeypatch.setenv("SERPAPI_API_KEY", KEY)
        monkeypatch.setenv("SERPAPI_BASE_URL", url)
        tool = names.build_plugin("tool", "serpapi")
        assert tool(query="capital of Norway & more") == "Oslo is the capital."
        assert tool(query="nothing") == "No results found for 'nothing'."
        assert tool(query=" ") == "No results found for ' '." and len(seen) == 2
        assert KEY not in tool.fingerprint + repr(tool) and "127.0.0.1" in tool.fingerprint


def test_what_is_missing_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SERPAPI_API_KEY", raising=False)
    with pytest.raises(ConfigError, match="SERPAPI_API_KEY"):
        names.build_plugin("tool", "serpapi")
    monkeypatch.setenv("WIKIPEDIA_BASE_URL", "file:///etc/passwd")
    with pytest.raises(ConfigError, match="not http"):
        names.build_plugin("tool", "wikipedia")
    with pytest.raises(ConfigError, match="nothing after a colon"):
        names.build_plugin("tool", "wikipedia:de")


def test_wikipedia_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(_: int, query: dict[str, list[str]]) -> Reply:
        if query["gsrsearch"] == ["nothing"]:
            return says({"batchcomplete": True})
        return says({"query": {"pages": [{"index": 1}, 3]}} if query["gsrsearch"] == ["odd"] else PAGES)

    with served(answer) as (url, seen):
        monkeypatch.setenv("WIKIPEDIA_BASE_URL", url)
        tool = names.build_plugin("tool", "wikipedia")
        assert tool(query="capital of Norway") == "Oslo: It is the capital of Norway."
        assert tool(query="nothing") == "No results found for 'nothing'."
        assert tool(query="odd") == "No results found for 'odd'."
        agent = seen[0].headers["User-Agent"]
        assert agent.startswith("FireAct/") and "https://" in agent


def test_busy_services_are_asked_again_after_the_time_that_they_name() -> None:
    replies: list[Reply] = [(429, {"Retry-After": "0.2"}, b""), (503, {}, b"down"), (200, {}, b"{cut"), says(ORGANIC)]
    with served(lambda count, _: replies[count - 1]) as (url, seen):
        started = time.monotonic()
        assert SerpAPI(service(url), KEY)(query="x") == "Oslo is the capital."
        assert len(seen) == 4 and time.monotonic() - started >= 0.2


@pytest.mark.parametrize(
    ("reply", "kind", "calls"),
    [
        ((503, {}, b"api_key=secret-key-123"), ProviderError, 4),
        ((400, {}, b"secret-key-123"), ProviderError, 1),
        ((401, {}, b"secret-key-123"), ConfigError, 1),
        (says({"error": "quota of secret-key-123 used up"}), ProviderError, 1),
        (says(["list"]), ProviderError, 1),
        ((200, {}, b"[" * 100_000), ProviderError, 4),
        ((200, {}, b" " * (MAX_BYTES + 1)), ProviderError, 1),
        ((200, {"Content-Length": "500"}, b"{}"), ProviderError, 4),
        ((200, {"X-Slow": "1"}, b" " * 200), ProviderError, 4),
        ((302, {"Location": "ftp://secret-key-123/"}, b""), ProviderError, 1),
    ],
)
def test_faults_are_raised_and_never_tell_the_key(reply: Reply, kind: type[FireactError], calls: int) -> None:
    with served(lambda *_: reply) as (url, seen):
        with pytest.raises(kind) as caught:
            SerpAPI(service(url, seconds=0.3 if "X-Slow" in reply[1] else 600.0), KEY)(query="x")
        assert len(seen) == calls
    error: BaseException | None = caught.value
    assert KEY not in str(error) and "SerpAPI" in str(error)
    assert error is not None and (error.__cause__ is None or KEY not in str(error.__cause__))


def test_a_service_that_is_not_there_is_a_fault() -> None:
    with pytest.raises(ProviderError, match=r"Wikipedia failed 2 times: .*refused"):
        Wikipedia(service("http://127.0.0.1:9/x", "Wikipedia", tries=2))(query="x")


def test_errors_of_mediawiki_are_faults() -> None:
    wrong = says({"error": {"code": "badvalue", "info": "Unrecognized value"}})
    with served(lambda *_: wrong) as (url, _), pytest.raises(ProviderError, match="badvalue: Unrecognized"):
        Wikipedia(service(url))(query="x")


@pytest.mark.parametrize(
    ("answer", "expected", "released"),
    [
        ({"organic_results": [{"title": "no snippet"}, {"snippet": "second"}]}, "second", None),
        ({"organic_results": [{"snippet": " "}, "odd", {"snippet": "third"}]}, "third", None),
        ({"answer_box": {"answer": None, "snippet": "", "snippet_highlighted_words": ["word"]}}, "word", None),
        ({"answer_box": {"type": "weather"}, "organic_results": []}, None, None),
        (ORGANIC, "Oslo is the capital.", "Oslo is the capital."),
    ],
)
def test_a_result_without_a_text_is_passed_over_but_in_the_released_code_s_way(
    answer: dict[str, Any], expected: str | None, released: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(lambda *_: says(answer)) as (url, _):
        monkeypatch.setenv("SERPAPI_API_KEY", KEY)
        monkeypatch.setenv("SERPAPI_BASE_URL", url)
        tools = [names.build_plugin("tool", name) for name in ("serpapi", "serpapi:released")]
        assert [tool(query="x") for tool in tools] == [
            text or "No results found for 'x'." for text in (expected, released)
        ]
        assert tools[0].fingerprint != tools[1].fingerprint and "extraction 1" in tools[1].fingerprint
    with pytest.raises(ConfigError, match="takes only 'released' after a colon, not 'first'"):
        names.build_plugin("tool", "serpapi:first")


@pytest.mark.parametrize(
    ("reply", "kind", "words", "calls"),
    [
        ((401, {}, b'{"error": "Invalid API key. Find it here."}'), ConfigError, "Invalid API key. Find", 1),
        ((429, {}, b'{"error": "Your account has run out of searches."}'), ConfigError, "has run out of searches", 1),
        ((429, {}, b'{"error": "You exceed your hourly throughput"}'), ProviderError, "hourly throughput", 4),
        (says({"error": "Your account has run out of searches."}), ConfigError, "has run out of searches", 1),
        ((400, {}, b'{"error": "Missing query `q` parameter."}'), ProviderError, "Missing query `q` parameter", 1),
        (says({"error": "Unsupported `xx` location."}), ProviderError, "Unsupported `xx` location", 1),
        (says({"error": {"code": "maxlag", "info": "Waiting for a database"}}), ProviderError, "maxlag: Waiting", 4),
        (says({"error": {"code": "ratelimited", "info": "Slow down"}}), ProviderError, "ratelimited: Slow", 4),
        ((403, {}, b"Please set a user-agent"), ConfigError, "Please set a user-agent", 1),
        (says({"error": ["odd"]}), ProviderError, "odd", 1),
    ],
)  # fmt: skip
def test_the_service_s_own_words_are_shown_and_end_what_they_concern(
    reply: Reply, kind: type[FireactError], words: str, calls: int
) -> None:
    with served(lambda *_: reply) as (url, seen), pytest.raises(kind, match=words):
        SerpAPI(service(url), KEY)(query="x")
    assert len(seen) == calls


def test_a_page_that_only_lists_meanings_is_the_last_resort() -> None:
    listing = {"title": "Mercury", "index": 1, "extract": "Mercury may refer to:", "pageprops": {"disambiguation": ""}}
    planet = {"title": "Mercury (planet)", "index": 2, "extract": "Mercury is a planet."}
    for pages, title in (([listing, planet], "Mercury (planet)"), ([listing], "Mercury")):
        with served(lambda *_: says({"query": {"pages": pages}})) as (url, seen):  # noqa: B023
            assert Wikipedia(service(url))(query="Mercury").startswith(f"{title}: Mercury")
            assert "disambiguation" in seen[0].path

"""Search over the embedded world: short snippets, total on every query, one index, the same on every thread."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fireact.tools.search import MAX_WORDS, build_geo_search
from fireact.tools.words import split_words
from fireact.world.facts import countries

SEARCH = build_geo_search()
QUERIES = [f"{country.name} {noun}" for country in countries() for noun in ("currency", "area", "internet domain")]


@pytest.mark.parametrize(
    ("query", "answer"),
    [
        ("country with capital Tashkent", "Uzbekistan"),
        ("Uzbekistan currency", "Uzbekistani som"),
        ("internet domain .is", "Iceland"),
        ("calling code +998", "Uzbekistan"),
        ("largest neighbour of Germany", "France"),
        ("what is the area of Russia", "17,100,000"),
        ("Bogota", "Colombia"),
        ("ULAANBAATAR", "Mongolia"),
    ],
)
def test_it_finds_what_is_asked(query: str, answer: str) -> None:
    found = SEARCH(query=query)
    assert answer in found and ": " in found


@pytest.mark.parametrize("query", ["", "  ", "what is the", "qqqq zzzz", "[]", "."])
def test_it_says_when_nothing_is_found(query: str) -> None:
    assert SEARCH(query=query) == f"No results found for {query!r}."


@given(st.text(max_size=200))
def test_it_answers_every_query_shortly(query: str) -> None:
    found = SEARCH(query=query)
    assert found and len(found.split()) <= MAX_WORDS + 45 and "\n" not in found


def test_snippets_are_short() -> None:
    assert max(len(SEARCH(query=query).split()) for query in QUERIES) <= MAX_WORDS


def test_threads_that_open_one_index_get_the_same_and_build_it_once(tmp_path: Path) -> None:
    def ask(_: int) -> list[str]:
        kept = build_geo_search(tmp_path)
        return [kept(query=query) for query in QUERIES]

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(ask, range(4)))
    assert answers == [[SEARCH(query=query) for query in QUERIES]] * 4
    (directory,) = [path for path in tmp_path.iterdir() if path.is_dir()]
    written = {path: path.stat().st_mtime_ns for path in directory.iterdir()}
    build_geo_search(tmp_path)
    assert {path: path.stat().st_mtime_ns for path in directory.iterdir()} == written


def test_a_half_built_index_is_built_anew(tmp_path: Path) -> None:
    whole = build_geo_search(tmp_path / "whole")
    (directory,) = [path for path in (tmp_path / "whole").iterdir() if path.is_dir()]
    half = tmp_path / "torn" / f"{directory.name}.part"
    half.mkdir(parents=True)
    (half / "texts.bin").write_text("Nor")
    assert build_geo_search(tmp_path / "torn")(query=QUERIES[0]) == whole(query=QUERIES[0])
    assert not half.exists()


def test_threads_share_one_search() -> None:
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda query: SEARCH(query=query), QUERIES)) == [SEARCH(query=query) for query in QUERIES]


def test_words_keep_domains_and_codes_and_drop_accents() -> None:
    assert split_words("The domain .is of Bogotá, code +354.") == ["domain", ".is", "bogota", "code", "+354"]

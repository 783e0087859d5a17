"""The embedded world: clean facts, articles that hold each of them, and questions with one answer and no leak."""

from __future__ import annotations

from collections import Counter

import pytest

from fireact.tools.search import split_words
from fireact.world import corpus
from fireact.world.corpus import articles
from fireact.world.facts import Country, countries, split_of
from fireact.world.questions import MARGIN, NUMBER, SHAPES, generate_examples, unique_names

BY_NAME = {country.name: country for country in countries()}


def test_there_are_enough_countries_with_whole_facts() -> None:
    assert len(countries()) >= 150
    for country in countries():
        assert all(getattr(country, key) for key in ("capital", "subregion", "currency", "language", "demonym"))
        assert country.domain.startswith(".") and country.code.startswith("+") and country.code[1:].isdigit()
        assert country.population > 100_000 and country.area > 100
        assert not any(letter in country.name + country.capital for letter in "()[]{}/;")


@pytest.mark.parametrize("key", ["name", "capital", "domain", "demonym"])
def test_keys_are_of_one_country_alone(key: str) -> None:
    assert max(Counter(getattr(country, key) for country in countries()).values()) == 1


def test_what_is_said_to_be_its_own_is_not_shared() -> None:
    codes, currencies = Counter(c.code for c in countries()), Counter(c.currency for c in countries())
    assert all(codes[country.code] == 1 for country in countries() if country.own_code)
    assert all(currencies[country.currency] == 1 for country in countries() if country.own_currency)
    assert not BY_NAME["Austria"].own_currency and BY_NAME["Uzbekistan"].own_currency


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("Uzbekistan", "currency", "Uzbekistani som"),
        ("Kazakhstan", "capital", "Astana"),
        ("Serbia", "largest_neighbour", "Romania"),
        ("Chad", "largest_neighbour", "Sudan"),
        ("Brunei", "neighbours", ("Malaysia",)),
        ("Iceland", "neighbours", ()),
        ("Japan", "people", "127 million"),
        ("Morocco", "size", "447,000"),
    ],
)
def test_facts_that_are_known(name: str, key: str, value: object) -> None:
    assert getattr(BY_NAME[name], key) == value


def test_neighbours_are_mutual() -> None:
    for country in countries():
        for name in country.neighbours:
            assert name not in BY_NAME or country.name in BY_NAME[name].neighbours, (country.name, name)


def test_the_splits_have_their_shares_and_share_no_key() -> None:
    shares = Counter(split_of(country) for country in countries())
    assert shares["train"] > shares["test"] > shares["dev"] >= 15
    keys = {split: {k for c in countries() if split_of(c) == split for k in unique_names(c)} for split in shares}
    assert not keys["train"] & keys["test"] and not keys["train"] & keys["dev"] and not keys["dev"] & keys["test"]


def test_every_country_has_articles_in_varied_words() -> None:
    assert len(articles()) == 6 * len(countries())
    assert all(article.text.count(".") >= 1 and len(article.text.split()) < 80 for article in articles())
    for kind in (corpus.CAPITAL, corpus.CURRENCY, corpus.LANGUAGE, corpus.DOMAIN, corpus.CODE, corpus.PEOPLE):
        assert len(set(kind)) >= 5
    openings = Counter(article.text.split()[0] for article in articles())
    assert max(openings.values()) < len(articles()) / 3


def test_the_corpus_holds_every_fact_next_to_its_country() -> None:
    text = {article.title: article.text for article in articles()}
    for country in countries():
        name = country.name
        assert country.capital in text[name] and name in text[country.capital]
        assert country.currency in text[f"Economy of {name}"]
        assert country.people in text[f"People of {name}"] and country.language in text[f"People of {name}"]
        assert country.size in text[f"Geography of {name}"]
        assert {country.domain, country.code} <= set(split_words(text[f"Communications in {name}"]))
        assert "{" not in "".join(value for key, value in text.items() if name in key)


def test_questions_are_the_same_each_time_and_never_repeat() -> None:
    for task in SHAPES:
        found = generate_examples(task, "test")
        generate_examples.cache_clear()
        assert generate_examples(task, "test") == found
        assert len({example.question for example in found}) == len(found) >= 150


def test_comparisons_differ_at_least_twofold_and_are_a_quarter_of_the_hops() -> None:
    compared = [example for example in generate_examples("geo-hop", "train") if example.meta["kind"] == "comparison"]
    assert 0.2 <= len(compared) / len(generate_examples("geo-hop", "train")) <= 0.3
    for example in compared:
        facts = example.meta["facts"]
        less, more = sorted(NUMBER[facts[0]["relation"]](BY_NAME[fact["country"]]) for fact in facts)
        assert more >= MARGIN * less >= 0
    assert MARGIN >= 2


def test_each_attribute_and_each_comparison_is_asked_in_several_ways() -> None:
    starts = {" ".join(example.question.split()[:2]) for example in generate_examples("geo-hop", "train")}
    assert len(starts) >= 10
    assert 0.35 < sum(example.answer == "yes" for example in generate_examples("geo-yesno", "train")) / 600 < 0.6
    assert all(count > 100 for count in Counter(e.answer for e in generate_examples("geo-choice", "train")).values())


def test_own_names_leave_out_what_is_shared() -> None:
    austria: Country = BY_NAME["Austria"]
    assert unique_names(austria) == {"Austria", "Vienna", ".at", "+43"}

"""Scores: those of the HotpotQA script for free-form answers, a prefix for yes/no, a letter for choices."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fireact.tasks.scoring import (
    best_scores,
    normalise_answer,
    score_choice,
    score_free_form,
    score_prefix,
    score_yes_no,
)


@pytest.mark.parametrize(
    ("gold", "answer", "em", "f1"),
    [
        ("Uzbekistani som", "the Uzbekistani som.", 1, 1),
        ("Washington, D.C.", "washington dc", 1, 1),
        (".uz", "UZ", 1, 1),
        ("Uzbekistani som", "som", 0, 2 / 3),
        ("Paris", "London", 0, 0),
        ("yes", "yes it is", 0, 0),
        ("no", "yes", 0, 0),
        ("yes", "Yes.", 1, 1),
        ("noanswer", "no answer", 0, 0),
        ("the", "", 0, 0),
        ("The The", "the the", 1, 0),
        ("!!!", " ", 0, 0),
        ("Paris Paris", "Paris", 0, 2 / 3),
    ],
)
def test_free_form(gold: str, answer: str, em: float, f1: float) -> None:
    assert score_free_form(gold, answer) == {"em": em, "f1": pytest.approx(f1)}


@pytest.mark.parametrize(
    ("answer", "em"), [("yes", 1), ("Yes, it is.", 1), ("no", 0), ("not yes", 0), ("yesterday", 0), ("", 0), (None, 0)]
)
def test_yes_no(answer: str | None, em: float) -> None:
    assert score_yes_no("yes", answer) == {"em": em, "f1": em}


@pytest.mark.parametrize(
    ("answer", "em"),
    [
        *[("B", 1), (" b ", 1), ("B. Paris", 1), ("(B)", 1), ("B) Paris", 1), ("B: Paris", 1)],
        *[("Paris", 0), ("A", 0), ("Berlin", 0), ("B'nai", 0), ("b city", 0), ("", 0), (None, 0), ("1", 0)],
    ],
)
def test_choice_counts_the_letter_only(answer: str | None, em: float) -> None:
    assert score_choice("B", answer) == {"em": em, "f1": em}


@pytest.mark.parametrize(
    ("gold", "answer", "em"),
    [
        *[
            ("yes", "Yes, it is.", 1),
            ("no", "NO", 1),
            ("no", "not sure", 1),
            ("yes", "it is: yes", 0),
            ("no", "yes", 0),
        ],
        *[("B", "b", 1), ("B", "B. Paris", 1), ("B", "(B)", 0), ("A", "an axe", 1), ("A", "", 0), ("A", None, 0)],
    ],
)
def test_prefix_is_the_released_rule(gold: str, answer: str | None, em: float) -> None:
    assert score_prefix(gold, answer) == {"em": em, "f1": em}


@given(st.lists(st.text(max_size=20), min_size=1, max_size=4), st.none() | st.text(max_size=20))
def test_an_alias_never_lowers_a_score(right: list[str], answer: str | None) -> None:
    found = best_scores(score_free_form, right, answer)
    assert found == {name: max(score_free_form(gold, answer)[name] for gold in right) for name in ("em", "f1")}


@pytest.mark.parametrize("score", [score_free_form, score_prefix, score_yes_no, score_choice])
@given(answer=st.none() | st.text(max_size=40))
def test_scores_lie_between_0_and_1_and_nothing_scores_0(score, answer) -> None:  # type: ignore[no-untyped-def]
    for gold in ("yes", "B", "Sana'a"):
        assert all(0 <= value <= 1 for value in score(gold, answer).values())
        assert not any(score(gold, nothing)[key] for nothing in (None, "", " ") for key in ("em", "f1"))


@given(st.text(max_size=60))
def test_normalising_again_changes_nothing(text: str) -> None:
    assert normalise_answer(text) == normalise_answer(normalise_answer(text))
    assert score_free_form(text, text)["em"] == float(bool(text.strip()))

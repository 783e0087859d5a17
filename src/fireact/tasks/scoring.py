"""How an answer is scored: exact match and F1 with the normalisation of the paper's released code (that of HotpotQA).

Every score is in [0, 1]; no answer scores 0. Yes/no questions score by prefix, multiple choice by the option's letter.
"""

from __future__ import annotations

import re
import string
from collections import Counter

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_CLOSED = {"yes", "no", "noanswer"}
_LETTER = re.compile(r"\s*\(?([A-Za-z])\s*(?:[^\w\s']|$)")


def normalise(text: str) -> str:
    """Lower case, without punctuation, articles and superfluous white space."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def free_form(gold: str, answer: str | None) -> dict[str, float]:
    """EM and token F1 of a free-form answer; a yes or no that is wrong has F1 0."""
    want, have = normalise(gold), normalise(answer or "")
    return {"em": float(bool(have) and have == want), "f1": _f1(want, have)}


def _f1(want: str, have: str) -> float:
    if want != have and (want in _CLOSED or have in _CLOSED):
        return 0.0
    gold_words, words = want.split(), have.split()
    common = sum((Counter(gold_words) & Counter(words)).values())
    if not common:
        return 0.0
    precision, recall = common / len(words), common / len(gold_words)
    return 2 * precision * recall / (precision + recall)


def yes_no(gold: str, answer: str | None) -> dict[str, float]:
    """Right when the answer begins with the gold yes or no."""
    right = float(normalise(answer or "").split(" ")[0] == normalise(gold))
    return {"em": right, "f1": right}


def choice(gold: str, answer: str | None) -> dict[str, float]:
    """Right when the answer is, or begins with, the letter of the gold option: "B", "(b)", "B. Paris"."""
    match = _LETTER.match(answer or "")
    right = float(match is not None and match[1].upper() == gold.upper())
    return {"em": right, "f1": right}

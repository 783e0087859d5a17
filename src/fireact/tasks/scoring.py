"""How an answer is scored: exact match and F1 with the normalisation of the paper's released code (that of HotpotQA).

Every score is in [0, 1]; no answer scores 0.

free_form  EM and F1 of the released code for HotpotQA and Bamboogle. One thing differs: an empty answer is wrong even
           where the gold answer is empty after normalisation ("The The", "!!!"). EM may then be 1 where F1 is 0.
prefix     the released code's rule for StrategyQA and MMLU: the answer begins with the gold answer, letter case aside.
           It is lax: "not sure" passes for no and "an axe" for A, and "(B)" fails for B.
yes_no     as prefix, but by the first word: "not sure" is not no.
choice     the option's letter, bare or as it is commonly written: "B", "(b)", "B. Paris"; "an axe" is not A.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

from fireact.errors import ConfigError, FireactError
from fireact.types import Example, Task

Scorer = Callable[[str, str | None], dict[str, float]]

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_CLOSED = {"yes", "no", "noanswer"}
_LETTER = re.compile(r"\s*\(?([A-Za-z])\s*(?:[^\w\s']|$)")


def score_answer(task: Task, example: Example, answer: str | None) -> dict[str, float]:
    """The scores of an answer. Raises ConfigError that names the question where a user's task fails to score it."""
    try:
        return task.score(example, answer)
    except FireactError:
        raise
    except Exception as fault:  # any error here is one of the user's own code
        raise ConfigError(
            f"the task {task.name} cannot score the answer {answer!r} to its question {example.id!r} "
            f"({type(fault).__name__}: {fault}). Correct its score, then run it again."
        ) from fault


def normalise_answer(text: str) -> str:
    """Lower case, without punctuation, articles and superfluous white space."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def score_free_form(gold: str, answer: str | None) -> dict[str, float]:
    """EM and token F1 of a free-form answer; a yes or no that is wrong has F1 0."""
    answer = (answer or "").strip()
    gold_text, answer_text = normalise_answer(gold), normalise_answer(answer)
    return {"em": float(bool(answer) and answer_text == gold_text), "f1": _token_f1(gold_text, answer_text)}


def _token_f1(gold_text: str, answer_text: str) -> float:
    if gold_text != answer_text and (gold_text in _CLOSED or answer_text in _CLOSED):
        return 0.0
    gold_words, answer_words = gold_text.split(), answer_text.split()
    common = sum((Counter(gold_words) & Counter(answer_words)).values())
    if not common:
        return 0.0
    precision, recall = common / len(answer_words), common / len(gold_words)
    return 2 * precision * recall / (precision + recall)


def score_prefix(gold: str, answer: str | None) -> dict[str, float]:
    """Right when the answer begins with the gold, letter case aside."""
    right = float(bool(gold) and (answer or "").lower().startswith(gold.lower()))
    return {"em": right, "f1": right}


def score_yes_no(gold: str, answer: str | None) -> dict[str, float]:
    """Right when the answer begins with the gold yes or no."""
    right = float(normalise_answer(answer or "").split(" ")[0] == normalise_answer(gold))
    return {"em": right, "f1": right}


def score_choice(gold: str, answer: str | None) -> dict[str, float]:
    """Right when the answer is, or begins with, the letter of the gold option: "B", "(b)", "B. Paris"."""
    match = _LETTER.match(answer or "")
    right = float(match is not None and match[1].upper() == gold.upper())
    return {"em": right, "f1": right}


SCORERS: dict[str, Scorer] = {"free_form": score_free_form, "yes_no": score_yes_no, "choice": score_choice}
"""The scorers that a user of a file of questions may choose."""


def gold_answers(example: Example) -> tuple[str, ...]:
    """All correct answers: the gold answer and those of ``meta["aliases"]``."""
    return (example.answer, *example.meta.get("aliases", ()))


def best_scores(scorer: Scorer, right: Sequence[str], answer: str | None) -> dict[str, float]:
    """The best of each score over several correct answers."""
    scores = [scorer(gold, answer) for gold in right]
    return {name: max(score[name] for score in scores) for name in scores[0]}

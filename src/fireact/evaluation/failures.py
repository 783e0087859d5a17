"""Why an episode is wrong: exactly one kind of failure for each wrong episode, by rules that need no model.

Invariant: ``classify_failure`` never raises and has exactly one answer: None for an episode that is right or was not
scored, else the first kind of ``FAILURES`` whose definition holds. It looks at the episode alone, so it names what
happened and not its cause. Evidence is text: an observation contains the right answer word for word (for the letter of
an option, the option's words). Where the answer is yes or no, observations must contain each of the question's
``facts``; where no facts are known, nothing is evidence.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from fireact.data.steps import find_faults
from fireact.evaluation.accuracy import accuracy, is_correct
from fireact.tasks.scoring import gold_answers, normalise_answer
from fireact.tools.words import WORD
from fireact.types import FINISH, Example, Step, Trajectory

FAILURES: Mapping[str, str] = {
    "tool fault": "a fault of a tool or an endpoint ended it, or noise disturbed its last observation",
    "format": "no answer; it ended on text without an action, or on a call that no tool accepts",
    "loop": "no answer; its last call repeated an earlier one",
    "gave up": "no answer, or an empty one, for another reason, such as the limit of steps",
    "wrong despite evidence": "a wrong answer, though an observation contained the right one",
    "wrong without evidence": "a wrong answer, and no observation contained the right one",
}
"""Every kind of failure with its definition, in the order in which the rules are tried."""

_CLOSED = ("yes", "no")
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def classify_failure(trajectory: Trajectory) -> str | None:
    """The kind of failure of an episode; None where it is right, or where no score says that it is wrong."""
    if trajectory.stop != "error" and (is_correct(trajectory) or accuracy(trajectory) is None):
        return None
    if trajectory.stop == "error" or _is_last_observation_noisy(trajectory.steps):
        return "tool fault"
    if not (trajectory.answer or "").strip():
        return _classify_without_answer(trajectory)
    return "wrong despite evidence" if has_seen_evidence(trajectory) else "wrong without evidence"


def count_failures(trajectories: Iterable[Trajectory]) -> dict[str, int]:
    """How many episodes have each kind of failure; kinds that do not occur count 0."""
    counts = Counter(map(classify_failure, trajectories))
    return {kind: counts[kind] for kind in FAILURES}


def _is_last_observation_noisy(steps: Sequence[Step]) -> bool:
    observed_steps = [step for step in steps if step.observation is not None]
    return bool(observed_steps) and observed_steps[-1].noise is not None


def _classify_without_answer(trajectory: Trajectory) -> str:
    last_fault = find_faults(trajectory.steps)[-1] if trajectory.steps else "no action"
    if trajectory.answer is None and (
        trajectory.stop == "format" or last_fault in ("no action", "unknown tool or arguments")
    ):
        return "format"
    return "loop" if trajectory.answer is None and last_fault == "repeated action" else "gave up"


def has_seen_evidence(trajectory: Trajectory) -> bool:
    """Whether the observations contained the right answer (the module says how this is decided)."""
    observations = [step.observation for step in trajectory.steps if step.observation is not None]
    return any(
        all(_any_contains_all(texts, observations) for texts in groups)
        for groups in _evidence_groups(trajectory.example)
    )


def _evidence_groups(example: Example) -> Iterator[Sequence[Sequence[str]]]:
    """Alternatives of evidence for the answer: lists of groups of texts; one observation contains a whole group."""
    for gold in gold_answers(example):
        if gold.strip().lower() in _CLOSED:
            facts = [texts for texts in map(_fact_texts, _as_sequence(example.meta.get("facts"))) if texts]
            if facts:
                yield facts
        else:
            yield [[_option_text(gold, _as_sequence(example.meta.get("options")))]]


def _fact_texts(fact: object) -> Sequence[str]:
    """The texts that an observation must contain to state a fact of the embedded world: country and value."""
    return [str(fact[key]) for key in ("country", "value") if key in fact] if isinstance(fact, Mapping) else ()


def _option_text(gold: str, options: Sequence[object]) -> str:
    """The words of the option that a letter names; other gold answers unchanged."""
    letter = gold.strip().lower()
    index = _LETTERS.find(letter) if len(letter) == 1 else -1
    return str(options[index]) if 0 <= index < len(options) else gold


def _as_sequence(value: object) -> Sequence[object]:
    return value if isinstance(value, list | tuple) else ()


def _any_contains_all(texts: Sequence[str], observations: Sequence[str]) -> bool:
    return any(all(_contains_words(observation, text) for text in texts) for observation in observations)


def _contains_words(observation: str, text: str) -> bool:
    """Whether an observation contains the words of a text in a row; in ".at" and "+95" the mark is part of the word."""
    normalise_text = _split_words if text.lstrip()[:1] in (".", "+") else normalise_answer
    phrase = normalise_text(text)
    return bool(phrase) and f" {phrase} " in f" {normalise_text(observation)} "


def _split_words(text: str) -> str:
    return " ".join(WORD.findall(text.lower()))


def count_searches(trajectory: Trajectory) -> Counter[str]:
    """How often each tool was called, by name. Neither the final answer nor text without an action is a call."""
    return Counter(
        step.action.name for step in trajectory.steps if step.action is not None and step.action.name != FINISH
    )

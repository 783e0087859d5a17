"""Why an episode is wrong: exactly one kind for each that is, by rules that need neither a model nor a second look.

Invariant: ``failure`` never fails and has exactly one answer: None for an episode that is right or was not scored, else
the first kind of ``FAILURES`` whose definition holds. It looks at the episode alone, so it says what was seen, not what
was the cause. Evidence is text: the right answer (an option's words, for a letter) stands word for word in an observation;
where the answer is yes or no, each of the question's ``facts`` does, and where none are known, nothing is evidence.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from fireact.data.steps import faults
from fireact.evaluation.accuracy import accuracy, right
from fireact.tasks.scoring import golds, normalise
from fireact.tools.words import WORD
from fireact.types import FINISH, Example, Step, Trajectory

FAILURES: Mapping[str, str] = {
    "tool fault": "a fault of a tool or an endpoint ended it, or noise disturbed what a tool said last",
    "format": "no answer; it ended on text that is no action, or on a call that no tool takes",
    "loop": "no answer; its last call was one that it had made before",
    "gave up": "no answer, or an empty one, for another reason, such as the limit of rounds",
    "wrong despite evidence": "a wrong answer, though the right one stood in an observation",
    "wrong without evidence": "a wrong answer, and the right one stood in no observation",
}
"""Every kind of failure with its definition, in the order in which they are tried."""

_CLOSED = ("yes", "no")
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def failure(trajectory: Trajectory) -> str | None:
    """The kind of ``FAILURES`` that an episode is of; None where it is right, or nothing says that it is wrong."""
    if trajectory.stop != "error" and (right(trajectory) or accuracy(trajectory) is None):
        return None
    if trajectory.stop == "error" or _disturbed_last(trajectory.steps):
        return "tool fault"
    if not (trajectory.answer or "").strip():
        return _without_answer(trajectory)
    return "wrong despite evidence" if evidence_seen(trajectory) else "wrong without evidence"


def counted(trajectories: Iterable[Trajectory]) -> dict[str, int]:
    """How many of the episodes are of each kind, all kinds named."""
    found = Counter(map(failure, trajectories))
    return {kind: found[kind] for kind in FAILURES}


def _disturbed_last(steps: Sequence[Step]) -> bool:
    said = [step for step in steps if step.observation is not None]
    return bool(said) and said[-1].noise is not None


def _without_answer(trajectory: Trajectory) -> str:
    last = faults(trajectory.steps)[-1] if trajectory.steps else "no action"
    if trajectory.answer is None and (
        trajectory.stop == "format" or last in ("no action", "unknown tool or arguments")
    ):
        return "format"
    return "loop" if trajectory.answer is None and last == "repeated action" else "gave up"


def evidence_seen(trajectory: Trajectory) -> bool:
    """Whether what the tools said held the right answer (see the module)."""
    said = [step.observation for step in trajectory.steps if step.observation is not None]
    return any(all(_stand(texts, said) for texts in way) for way in _evidence(trajectory.example))


def _evidence(example: Example) -> Iterator[Sequence[Sequence[str]]]:
    """Ways in which the answer may have been seen: each some groups of texts; a group stands in one observation."""
    for gold in golds(example):
        if gold.strip().lower() in _CLOSED:
            facts = [texts for texts in map(_fact, _listed(example.meta.get("facts"))) if texts]
            if facts:
                yield facts
        else:
            yield [[_option(gold, _listed(example.meta.get("options")))]]


def _fact(fact: object) -> Sequence[str]:
    """What an observation must say for a fact of the embedded world to be known: the country and the value."""
    return [str(fact[key]) for key in ("country", "value") if key in fact] if isinstance(fact, Mapping) else ()


def _option(gold: str, options: Sequence[object]) -> str:
    """The words of the option that a letter names; other golds as they are."""
    letter = gold.strip().lower()
    place = _LETTERS.find(letter) if len(letter) == 1 else -1
    return str(options[place]) if 0 <= place < len(options) else gold


def _listed(value: object) -> Sequence[object]:
    return value if isinstance(value, list | tuple) else ()


def _stand(texts: Sequence[str], said: Sequence[str]) -> bool:
    return any(all(_holds(observation, text) for text in texts) for observation in said)


def _holds(observation: str, text: str) -> bool:
    """Whether the words of a text stand in an observation in a row; the marks of ".at" and "+95" count as part of a word."""
    form = _marked if text.lstrip()[:1] in (".", "+") else normalise
    wanted = form(text)
    return bool(wanted) and f" {wanted} " in f" {form(observation)} "


def _marked(text: str) -> str:
    return " ".join(WORD.findall(text.lower()))


def searches(trajectory: Trajectory) -> Counter[str]:
    """How often each tool was called, by name; giving the answer is no call, and neither is text without an action."""
    return Counter(
        step.action.name for step in trajectory.steps if step.action is not None and step.action.name != FINISH
    )

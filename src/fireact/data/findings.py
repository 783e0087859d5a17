"""What can be wrong with a trajectory: every kind of finding with its level and its fix, and the checks of one alone.

Errors are what must not be trained on, and what ``doctor --fix`` mends; warnings are for a person to judge. A check is
told one trajectory and never repairs it. A secret that is found is never repeated in what a check says.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from fireact.data.steps import faults
from fireact.formats.released import damage_of
from fireact.sensitive import Found, excerpt, sensitive, strings
from fireact.tasks.scoring import normalise
from fireact.types import Trajectory


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of finding: how bad it is, what it says, and what to do."""

    level: Literal["error", "warning"]
    says: str
    fix: str


KINDS: Mapping[str, Kind] = {
    "unreadable": Kind("error", "lines that are no trajectory", "--fix leaves them out"),
    "unread-tool-call": Kind("error", "tool calls that cannot be read", "--fix keeps their turns with weight 0; or mend the source"),
    "repeated episode": Kind("error", "episodes that are there twice", "--fix keeps the first"),
    "contaminated": Kind("error", "questions that overlap an evaluation set", "--fix leaves them out"),
    "not compared": Kind("warning", "tasks whose held-out questions were not looked up", "set FIREACT_DATA to the folder of their questions, or give --against"),
    "secret": Kind("error", "keys and tokens", "--fix blots them out; withdraw the key where it was issued"),
    "fault": Kind("error", "episodes that a fault of tools or models ended", "--fix leaves them out"),
    "no action": Kind("error", "steps without a readable action", "--fix gives them weight 0; or mix --weigh-bad 0"),
    "unknown tool": Kind("error", "calls of a tool or arguments unknown", "--fix gives them weight 0; or mix --weigh-bad 0"),
    "options-in-output": Kind("error", "questions whose options stand in the answer", "--fix puts them back; so does mix"),
    "question-in-turn": Kind("error", "questions that stand in the first answer", "--fix puts them back; so does mix"),
    "thought-in-answer": Kind("error", "thoughts that stand in the final answer", "--fix tells them apart; so does mix"),
    "text-before-thought": Kind("warning", "words before the first thought", "--fix leaves them out; so does mix"),
    "closing-line-twice": Kind("warning", "episodes that are closed twice", "--fix closes them once; so does mix"),
    "no-final-newline": Kind("warning", "episodes whose closing line is not ended", "--fix ends it; so does mix"),
    "no-closing-line": Kind("warning", "episodes that are not closed", "nobody knows how they ended: leave them out"),
    "reward-as-number": Kind("warning", "rewards as a number, where others are a word", "--fix writes the word; so does mix"),
    "nothing to learn": Kind("error", "trajectories without a step to learn", "--fix leaves them out"),
    "exact duplicate": Kind("warning", "same question, same steps, other episode", "--fix keeps the first; or mix --best-of 1"),
    "near duplicate": Kind("warning", "almost the words of another one", "mix --best-of 1, or collect other questions"),
    "repeated action": Kind("warning", "actions done again", "mix -w no_repeats, or mix --weigh-bad 0"),
    "repeated thought": Kind("warning", "thoughts that are said again", "mix -w no_repeats"),
    "empty thought": Kind("warning", "steps without a thought", "collect with a method that thinks, or leave it"),
    "long observation": Kind("warning", "observations over the limit", "have the tool answer more briefly"),
    "too long": Kind("warning", "samples over the limit of tokens", "train leaves them out; mix -w steps<=N, or a higher --max-length"),
    "unsupported answer": Kind("warning", "answers that no observation holds", "mix -w correct; look whether it was guessed"),
    "leaked answer": Kind("warning", "gold answers that the question tells", "mend the task"),
    "e-mail address": Kind("warning", "e-mail addresses", "--fix blots them out"),
}  # fmt: skip
"""In the order in which they are shown."""


SHORT = 5
"""Words of an answer that an observation may be expected to hold, where no gold answer says what an answer looks like."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What is allowed: the names of tools (empty: not known), characters of an observation, tokens of a sample."""

    tools: tuple[str, ...] = ()
    max_observation: int = 2000
    max_length: int = 1024


def check(trajectory: Trajectory, bounds: Bounds) -> Iterator[Found]:
    """Everything that is wrong with one trajectory on its own; steps of weight 0 are not learned, so not judged."""
    if trajectory.stop == "error":
        yield "fault", excerpt(str(trajectory.error), 60)
    else:
        yield from ((kind, "") for kind in damage_of(trajectory) if kind in KINDS)
        yield from _steps(trajectory, bounds)
        yield from _answer(trajectory)
    yield from sensitive("\n".join(strings(trajectory.to_dict())))


def _steps(trajectory: Trajectory, bounds: Bounds) -> Iterator[Found]:
    if not any(step.weight > 0 for step in trajectory.steps):
        yield "nothing to learn", f"{len(trajectory.steps)} steps"
    seen: set[str] = set()
    tools = known_tools(trajectory, bounds.tools)
    for number, (step, fault) in enumerate(zip(trajectory.steps, faults(trajectory.steps, tools), strict=True), 1):
        if step.observation is not None and len(step.observation) > bounds.max_observation:
            yield "long observation", f"step {number}: {len(step.observation):,} characters"
        if not step.weight > 0:
            continue
        if fault == "no action":
            yield "no action", f"step {number}: {excerpt(step.text, 40)!r}"
        elif fault == "repeated action":
            yield "repeated action", f"step {number}"
        elif fault == "unknown tool or arguments" and step.action is not None:
            yield "unknown tool", f"step {number}: {excerpt(step.action.name, 40)}"
        if not step.thought.strip():
            if step.joined or trajectory.method == "io":  # which are written without one
                continue
            yield "empty thought", f"step {number}"
        elif step.thought in seen:
            yield "repeated thought", f"step {number}: {excerpt(step.thought, 40)!r}"
        seen.add(step.thought)


def known_tools(trajectory: Trajectory, tools: Collection[str]) -> frozenset[str]:
    """The tools that exist: those given, or those whose schemas came with the episode; empty where nobody knows."""
    if tools:
        return frozenset(tools)
    schemas = trajectory.meta.get("tools")
    found = [_schema_name(schema) for schema in schemas] if isinstance(schemas, list) else []
    return frozenset(name for name in found if name)


def _schema_name(schema: Any) -> str:
    if not isinstance(schema, dict):
        return ""
    inner = schema.get("function", schema)
    return str(inner.get("name", "")) if isinstance(inner, dict) else ""


def _answer(trajectory: Trajectory) -> Iterator[Found]:
    question = f" {normalise(trajectory.example.question)} "
    gold = normalise(trajectory.example.answer)
    telling = len(gold) > 1 and gold not in ("yes", "no", "true", "false")
    if telling and f" {gold} " in question and " or " not in question:  # "X or Y?" has to name its answer
        yield "leaked answer", repr(excerpt(trajectory.example.answer, 40))
    answer = normalise(trajectory.answer or "")
    seen = [f" {normalise(step.observation)} " for step in trajectory.steps if step.observation is not None]
    short = not gold and len(answer.split()) <= SHORT  # a sentence of its own words stands in no observation
    if not seen or not (telling or short) or len(answer) < 2 or answer in ("yes", "no"):
        return
    if not any(f" {answer} " in text for text in seen):
        yield "unsupported answer", repr(excerpt(trajectory.answer or "", 40))

"""What can be wrong with a trajectory: every kind of finding with its level and fix, and the checks of one trajectory.

An error must not be trained on, and ``doctor --fix`` repairs it; a warning is for a person to judge. A check reads one
trajectory and never repairs it. The detail of a finding never repeats a secret.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from fireact.base.personal import find_personal
from fireact.base.redact import SensitiveMatch, excerpt, find_sensitive, iterate_strings
from fireact.data.steps import find_faults
from fireact.formats.released import damage_of
from fireact.recording.trajectories import METHOD
from fireact.tasks.scoring import normalise_answer
from fireact.types import Trajectory
from fireact.wire.schemas import schema_name


@dataclass(frozen=True, slots=True)
class FindingKind:
    """A kind of finding: its level, its message, and what to do."""

    level: Literal["error", "warning"]
    message: str
    fix: str


KINDS: Mapping[str, FindingKind] = {
    "unreadable": FindingKind("error", "lines that are not a trajectory", "--fix leaves them out"),
    "unread-tool-call": FindingKind(
        "error", "tool calls that cannot be read", "--fix keeps their turns with weight 0; or repair the source"
    ),
    "unknown-role": FindingKind(
        "error", "messages of an unknown role, read as the user's", "rename the role in the source"
    ),
    "unknown-block": FindingKind(
        "error",
        "blocks that are not text, reasoning, a call or a result",
        "their turns have weight 0",
    ),
    "call-without-content": FindingKind(
        "warning", "calls of a model whose words are not in the trace", "let the instrumentation capture content"
    ),
    "unread-score": FindingKind("warning", "scores that are no numbers", "give numbers with 'fireact score'"),
    "stray-result": FindingKind("error", "results of calls that nobody made", "they are left out"),
    "unread-schema": FindingKind("warning", "tool schemas that cannot be read", "repair them in the source"),
    "wrong-type": FindingKind("error", "values of a wrong type in messages", "repair them in the source"),
    "lone-surrogate": FindingKind(
        "warning", "characters that are no Unicode, which became a question mark", "repair them in the source"
    ),
    "not-a-number": FindingKind("warning", "numbers that are NaN or infinite, which became null", "repair the source"),
    "repeated episode": FindingKind("error", "episodes that occur twice", "--fix keeps the first"),
    "contaminated": FindingKind("error", "questions that overlap an evaluation set", "--fix leaves them out"),
    "not compared": FindingKind(
        "warning",
        "tasks whose held-out questions were not looked up",
        "set FIREACT_DATA to the folder with their questions, or give --against",
    ),
    "teacher licence": FindingKind(
        "warning",
        "teachers whose licence nobody named",
        "check their terms for training, and name it: collect or record --teacher-license, publish --teacher-license",
    ),
    "secret": FindingKind("error", "keys and tokens", "--fix redacts them; revoke the key where it was issued"),
    "fault": FindingKind("error", "episodes that ended in an error of a tool or model", "--fix leaves them out"),
    "no action": FindingKind(
        "error", "steps without a readable action", "--fix gives them weight 0; or mix --weigh-bad 0"
    ),
    "unknown tool": FindingKind(
        "error", "calls with an unknown tool or arguments", "--fix gives them weight 0; or mix --weigh-bad 0"
    ),
    "options-in-output": FindingKind(
        "error", "questions whose options are in the answer", "--fix puts them back; so does mix"
    ),
    "question-in-turn": FindingKind(
        "error", "questions that are in the first answer", "--fix puts them back; so does mix"
    ),
    "thought-in-answer": FindingKind(
        "error", "thoughts that are in the final answer", "--fix separates them; so does mix"
    ),
    "text-before-thought": FindingKind(
        "warning", "words before the first thought", "--fix leaves them out; so does mix"
    ),
    "closing-line-twice": FindingKind(
        "warning", "episodes that are closed twice", "--fix closes them once; so does mix"
    ),
    "no-final-newline": FindingKind(
        "warning", "episodes whose closing line is not ended", "--fix ends it; so does mix"
    ),
    "no-closing-line": FindingKind(
        "warning", "episodes that are not closed", "nobody knows how they ended: leave them out"
    ),
    "reward-as-number": FindingKind(
        "warning", "rewards that are a number, not a word", "--fix writes the word; so does mix"
    ),
    "nothing to learn": FindingKind("error", "trajectories without a step to learn", "--fix leaves them out"),
    "exact duplicate": FindingKind(
        "warning", "same question, same steps, other episode", "--fix keeps the first; or mix --best-of 1"
    ),
    "near duplicate": FindingKind(
        "warning", "almost the same words as another episode", "mix --best-of 1, or collect other questions"
    ),
    "repeated action": FindingKind("warning", "repeated actions", "mix -w no_repeats, or mix --weigh-bad 0"),
    "repeated thought": FindingKind("warning", "repeated thoughts", "mix -w no_repeats"),
    "empty thought": FindingKind(
        "warning", "steps without a thought", "collect with a method that has thoughts, or ignore it"
    ),
    "long observation": FindingKind("warning", "observations over the limit", "let the tool return shorter results"),
    "too long": FindingKind(
        "warning", "samples over the token limit", "train leaves them out; mix -w steps<=N, or a higher --max-length"
    ),
    "unsupported answer": FindingKind(
        "warning", "answers that no observation holds", "mix -w correct; check whether it was guessed"
    ),
    "leaked answer": FindingKind("warning", "gold answers that the question gives away", "repair the task"),
    "e-mail address": FindingKind("warning", "e-mail addresses", "--fix redacts them"),
    "personal name": FindingKind("warning", "names of persons (--personal)", "--fix redacts them"),
    "phone number": FindingKind("warning", "phone numbers (--personal)", "--fix redacts them"),
    "address": FindingKind("warning", "street addresses (--personal)", "--fix redacts them"),
    "account number": FindingKind("warning", "numbers of cards and accounts (--personal)", "--fix redacts them"),
}
"""In display order."""


SHORT_ANSWER = 5
"""Without a gold answer, answers of at most this many words are looked for in the observations."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """The limits: tool names (empty: unknown), characters of an observation, tokens of a sample.

    ``personal`` is the spaCy model by which personal data is found; without one it is not looked for.
    """

    tools: tuple[str, ...] = ()
    max_observation: int = 2000
    max_length: int = 1024
    personal: str = ""


def check_trajectory(trajectory: Trajectory, bounds: Bounds) -> Iterator[SensitiveMatch]:
    """The findings of one trajectory; steps of weight 0 are not learned, so they are not checked."""
    if trajectory.stop == "error":
        yield "fault", excerpt(str(trajectory.error), 60)
    else:
        yield from ((kind, "") for kind in damage_of(trajectory) if kind in KINDS)
        yield from _check_steps(trajectory, bounds)
        yield from _check_answer(trajectory)
    yield from find_private(trajectory.to_dict(), bounds)


PRIVATE_FIELDS = ("example", "steps", "meta")
"""The fields of a trajectory in which personal data is looked for: the others name tasks, methods and models."""


def find_private(data: Mapping[str, Any], bounds: Bounds) -> Iterator[SensitiveMatch]:
    """The keys and e-mail addresses in a trajectory, and its personal data where that is looked for."""
    yield from find_sensitive("\n".join(iterate_strings(data)))
    if bounds.personal:
        for text in iterate_strings([data.get(name) for name in PRIVATE_FIELDS]):
            yield from find_personal(text, bounds.personal)


def _check_steps(trajectory: Trajectory, bounds: Bounds) -> Iterator[SensitiveMatch]:
    if not any(step.weight > 0 for step in trajectory.steps):
        yield "nothing to learn", f"{len(trajectory.steps)} steps"
    earlier_thoughts: set[str] = set()
    tools = known_tools(trajectory, bounds.tools)
    for number, (step, fault) in enumerate(zip(trajectory.steps, find_faults(trajectory.steps, tools), strict=True), 1):
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
            if step.joined or trajectory.method in ("io", METHOD):  # these have no thought by design
                continue
            yield "empty thought", f"step {number}"
        elif step.thought in earlier_thoughts:
            yield "repeated thought", f"step {number}: {excerpt(step.thought, 40)!r}"
        earlier_thoughts.add(step.thought)


def known_tools(trajectory: Trajectory, tools: Collection[str]) -> frozenset[str]:
    """The names of the existing tools: ``tools``, else the schemas of the episode; empty if unknown."""
    if tools:
        return frozenset(tools)
    schemas = trajectory.meta.get("tools")
    names = [schema_name(schema) for schema in schemas if isinstance(schema, dict)] if isinstance(schemas, list) else []
    return frozenset(name for name in names if name)


def _check_answer(trajectory: Trajectory) -> Iterator[SensitiveMatch]:
    question = f" {normalise_answer(trajectory.example.question)} "
    gold = normalise_answer(trajectory.example.answer)
    telling = len(gold) > 1 and gold not in ("yes", "no", "true", "false")
    if telling and f" {gold} " in question and " or " not in question:  # a question "X or Y?" must name its answer
        yield "leaked answer", repr(excerpt(trajectory.example.answer, 40))
    answer = normalise_answer(trajectory.answer or "")
    observations = [
        f" {normalise_answer(step.observation)} " for step in trajectory.steps if step.observation is not None
    ]
    short = not gold and len(answer.split()) <= SHORT_ANSWER  # a free-form sentence is in no observation
    if not observations or not (telling or short) or len(answer) < 2 or answer in ("yes", "no"):
        return
    if not any(f" {answer} " in text for text in observations):
        yield "unsupported answer", repr(excerpt(trajectory.answer or "", 40))

"""The questions of a run as a task: ``--questions-of RUN``, where RUN is a recording, a hold-out file or any such run.

The right answer of a question is the one that the run has: its gold answer, else the answer of a demonstration, else
the answer of an episode that scored right. Invariant: each question is asked once, whatever its number of episodes, and
keeps the task and the id of its first episode, so that ``compare`` pairs it with the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from fireact.base.names import known_names
from fireact.base.run_directory import read_manifest, relative_path
from fireact.data.filters import has_full_score
from fireact.data.sources import read_any_trajectories
from fireact.errors import ConfigError, DataError
from fireact.rollout.agents import choose_defaults
from fireact.rollout.loading import load_task
from fireact.rollout.models import Model
from fireact.tasks.question_hash import normalise_question
from fireact.tasks.scoring import best_scores, gold_answers, score_free_form
from fireact.tools.replayed import count_replayed_calls
from fireact.types import Example, Limits, Task, Trajectory

MAX_TOKENS = 4096
"""The most tokens of a completion, where a recorded agent wrote more in an episode."""


@dataclass(frozen=True, slots=True)
class RecordedQuestions:
    """The questions of one task of a run, scored by the ``rule`` of a task, or as free text by EM and F1.

    ``unanswered`` counts the questions that are left out, since the run has no right answer to them.
    """

    name: str
    questions: Sequence[Example]
    limits: Limits
    rule: Task | None = None
    unanswered: int = 0
    splits = ("",)

    @property
    def prompts(self) -> str:
        """The task whose few-shot examples are used for an LM that was not fine-tuned."""
        return self.name if self.rule is None else str(getattr(self.rule, "prompts", self.rule.name))

    def examples(self, split: str) -> Sequence[Example]:
        """The questions; they have no splits."""
        return self.questions

    def score(self, example: Example, answer: str | None) -> dict[str, float]:
        if self.rule is not None:
            return self.rule.score(example, answer)
        return best_scores(score_free_form, gold_answers(example), answer)


def load_recorded_questions(run: str, rule: str | None = None) -> list[RecordedQuestions]:
    """The questions of a run by task, scored by the task ``rule``, else by the task of that name where one is known.

    Raises DataError where the run has no question with a right answer.
    """
    tasks = [
        _build_questions(name, trajectories, load_task(rule or name) if rule or name in known_names("task") else None)
        for name, trajectories in _read_by_task(run).items()
    ]
    if not any(task.questions for task in tasks):
        raise DataError(
            f"{run} has no right answer to any of its questions. Score it first: fireact score {run} --answers FILE."
        )
    return [task for task in tasks if task.questions]


def choose_recorded_tools(run: str, method: str, *, model: str) -> Sequence[str]:
    """The tools for the questions of a run where none are named: those of the embedded world for its tasks.

    Raises ConfigError where the agent of the run had tools that are not here.
    """
    by_task = _read_by_task(run)
    if set(by_task) <= set(known_names("task")):
        return choose_defaults(list(by_task), [method], model=model)[0]
    if any(map(_had_tools, chain.from_iterable(by_task.values()))):
        raise ConfigError(
            f"{relative_path(run)} has no questions of the embedded world, so there is no default --tool: give the "
            "agent's own (module:attribute), or --tool recorded:RUN with its recording, which answers as its tools did."
        )
    return ()


def _had_tools(trajectory: Trajectory) -> bool:
    return bool(trajectory.meta.get("tools")) or any(step.observation is not None for step in trajectory.steps)


def describe_replayed_calls(specs: Sequence[str], trajectories: Sequence[Trajectory]) -> dict[str, Any]:
    """How the calls of tools of ``recorded:RUN`` were answered, for the manifest; nothing without such tools."""
    counts = count_replayed_calls(specs, trajectories)
    return {} if counts is None else {"replayed": asdict(counts)}


def read_prompt_tokens(model: Model) -> dict[str, Any]:
    """The prompt tokens of a question with the recorded agent's prompt and without, as training measured them."""
    manifest = {} if model.training is None or model.directory is None else read_manifest(model.directory)
    prompt = manifest.get("prompt", {})
    if not prompt.get("tokens_a_question"):
        return {}
    return {"prompt": {name: prompt[name] for name in ("mode", "tokens_a_question")}}


def _read_by_task(run: str) -> dict[str, list[Trajectory]]:
    by_task: dict[str, list[Trajectory]] = {}
    for trajectory in read_any_trajectories(Path(run)):
        by_task.setdefault(trajectory.task, []).append(trajectory)
    return by_task


def _build_questions(name: str, trajectories: Sequence[Trajectory], rule: Task | None) -> RecordedQuestions:
    by_question: dict[str, list[Trajectory]] = {}
    for trajectory in trajectories:
        if words := normalise_question(trajectory.example.question):
            by_question.setdefault(words, []).append(trajectory)
    examples = [(episodes[0].example, find_right_answer(episodes)) for episodes in by_question.values()]
    answered = [replace(example, answer=answer) for example, answer in examples if answer is not None]
    limits = _measure_limits(trajectories) if rule is None else rule.limits
    return RecordedQuestions(name, answered, limits, rule, len(examples) - len(answered))


def find_right_answer(episodes: Sequence[Trajectory]) -> str | None:
    """The right answer to the question of some episodes; None where they have none."""
    candidates = [
        *(episode.example.answer for episode in episodes),
        *(episode.meta.get("demonstration") for episode in episodes),
        *(episode.answer for episode in episodes if has_full_score(episode)),
    ]
    return next((str(answer) for answer in candidates if answer and str(answer).strip()), None)


def _measure_limits(trajectories: Sequence[Trajectory]) -> Limits:
    """The usual limits, and higher ones where a recorded episode went beyond them."""
    usual = Limits()
    steps = max(len(trajectory.steps) for trajectory in trajectories)
    tokens = max(trajectory.usage.completion_tokens for trajectory in trajectories)
    return replace(
        usual,
        max_steps=max(usual.max_steps, steps),
        max_tokens=max(usual.max_tokens, min(tokens, MAX_TOKENS)),
    )

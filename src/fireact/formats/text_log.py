"""Plain ReAct logs: episodes as text, each begun by ``Question:``, with or without numbered marks and trials.

Invariant: streams, one episode at a time. The environment's text after the answer ("Answer is CORRECT") is the score,
and ``Correct answer:`` the gold answer; neither is an observation.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from fireact.base.redact import excerpt
from fireact.formats.react_text import MARK, parse_episode, reward_of
from fireact.formats.source import SourceFile, import_trajectory
from fireact.types import FINISH, Trajectory

_TRIAL = re.compile(r"\ABEGIN TRIAL (\d+)")
_BANNER = re.compile(r"\A(#{5,}|-{5,}.*|BEGIN TRIAL.*|Trial summary:.*)\Z")
_GOLD = re.compile(r"^Correct answer: ?(.*)\Z", re.MULTILINE | re.DOTALL)
_REFLECTIONS = re.compile(r"\s(?:You have attempted to answer|Reflections?:\n|The following reflection)")
_VERDICT = re.compile(r"Answer is (CORRECT|INCORRECT)")


def sniff(rows: Sequence[Any]) -> bool:
    """Whether the first lines are text with a question and a marked thought or action."""
    lines = [row for row in rows if isinstance(row, str)]
    has_question = any(line.startswith("Question:") for line in lines)
    return has_question and len(lines) == len(rows) and any(MARK.match(line) for line in lines)


def read(source: SourceFile) -> Iterator[Trajectory]:
    """The episodes of a log; the trial is the seed."""
    for trial, number, text in _split_episodes(source):
        trajectory = _read_episode(source, trial, text)
        if trajectory is None:
            source.report_unreadable(number, f"no Thought or Action after {excerpt(text, 60)!r}")
        else:
            yield trajectory


def _split_episodes(source: SourceFile) -> Iterator[tuple[int, int, str]]:
    trial, start = 0, 0
    block: list[str] = []
    for number, line in enumerate(source.lines(), 1):
        if line.startswith("Question:") or _BANNER.match(line):
            if block:
                yield trial, start, "\n".join(block)
            block, start = ([line], number) if line.startswith("Question:") else ([], 0)
            match = _TRIAL.match(line)
            trial = int(match[1]) - 1 if match else trial
        elif block:
            block.append(line)
    if block:
        yield trial, start, "\n".join(block)


def _read_episode(source: SourceFile, trial: int, text: str) -> Trajectory | None:
    match = _GOLD.search(text)
    gold = match[1].strip() if match else ""
    episode = parse_episode(text[: match.start()] if match else text.rstrip("\n"))
    if not episode.steps:
        return None
    question = episode.before.removeprefix("Question:").strip()
    steps = list(episode.steps)
    reward = reward_of(episode.closing)
    last = steps[-1]
    if last.action is not None and last.action.name == FINISH:
        verdict = _VERDICT.match(last.observation or "")
        reward = float(verdict[1] == "CORRECT") if verdict else reward
        steps[-1] = replace(last, observation=None)
    question, reflections = _split_reflections(question)
    method = "reflexion" if reflections else ""
    return import_trajectory(
        question, steps, task=source.name, answer=gold, method=method, seed=trial,
        scores={} if reward is None else {"em": reward}, meta={"system": reflections},
    )  # fmt: skip


def _split_reflections(question: str) -> tuple[str, str]:
    """The question alone, and the reflections on earlier trials that Reflexion's prompt adds to it."""
    match = _REFLECTIONS.search(question)
    return (question[: match.start()].strip(), question[match.start() :].strip()) if match else (question, "")

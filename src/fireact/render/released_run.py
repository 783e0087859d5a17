"""Reads a run of the paper's code: one JSON object that maps a question's index to its answer, scores and text.

Invariant: each entry becomes one Trajectory with the scores that the run itself reported, or the file is refused with
a DataError that names the entry. The released code stores only finished episodes, and the gold answer only in
normalised form, so the Example has that form. Its text does not mark the end of an observation: a line in one that
begins with "Thought:" is read as a step. The file does not hold tokens and seconds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fireact.errors import DataError, missing_path_error
from fireact.render.react import ReActRenderer
from fireact.types import FINISH, Example, Limits, Step, Stop, Trajectory, Usage

_NAME = re.compile(
    r"(?P<task>[a-z]+)_(?P<split>\w+?)_(?P<start>\d+)_(?P<end>\d+)_(?P<model>.+)_(?P<temperature>[\d.]+)"
    r"_\d{4}(?:-\d\d){5}"
)
_ALPACA = re.compile(r".*?### Instruction:\n(?P<question>.*?)\n\n### Response:\n(?P<body>.*)", re.DOTALL)
_PLAIN = re.compile(r"(?P<question>.*?)\n(?P<body>Thought:.*)", re.DOTALL)
_TURN = re.compile(
    r"(?P<reply>.+?)^Observation:(?P<observation>.*?)(?=^Thought:|\Z)|(?P<unanswered>.+)", re.MULTILINE | re.DOTALL
)
"""The LM's reply up to an observation (it may have two thoughts), and the observation up to the next thought."""
_RENDERER = ReActRenderer()


def read_released_run(path: Path, *, task: str = "") -> Iterator[Trajectory]:
    """The episodes of a released evaluation file, in its order.

    The released code puts task, split and model into the file's name; ``task`` is for a renamed file. An id is the
    split and the index in it, like the ids of the task's Examples.
    """
    about = _parse_file_name(path, task)
    for key, entry in _read_entries(path).items():
        try:
            yield _build_trajectory(key, entry, about)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise DataError(f"{path}, entry {key!r}: not an episode of the released code ({error!r}).") from error


def _parse_file_name(path: Path, task: str) -> dict[str, str]:
    match = _NAME.fullmatch(path.stem)
    return match.groupdict() if match else {"task": task or "unknown", "split": "", "model": path.stem}


def _read_entries(path: Path) -> Mapping[str, Any]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise missing_path_error(path, error.strerror or str(error)) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON ({error}).") from error
    if not isinstance(entries, dict) or not all(
        isinstance(entry, dict) and "traj" in entry for entry in entries.values()
    ):
        raise DataError(f"{path} is not a run of the released code: one JSON object of entries, each with a 'traj'.")
    return entries


def _build_trajectory(key: str, entry: Mapping[str, Any], about: Mapping[str, str]) -> Trajectory:
    question, steps = _parse_episode(entry["traj"])
    example = Example(f"{about['split']}-{key}" if about["split"] else key, question, _gold_text(entry["gt"]))
    reported = {name: float(entry[name]) for name in ("em", "f1") if name in entry}
    reported_meta = {name: entry[name] for name in ("reward", "pred") if name in entry}
    if "temperature" in about:
        reported_meta["temperature"] = float(about["temperature"])
    return Trajectory(
        task=about["task"],
        example=example,
        method="react",
        model=about["model"],
        seed=0,
        steps=tuple(steps),
        stop=_stop_reason(steps),
        scores=reported,
        usage=Usage(cost=None),
        seconds=0.0,
        meta={"released": reported_meta},
    )


def _gold_text(value: object) -> str:
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)


def _stop_reason(steps: Sequence[Step]) -> Stop:
    if steps and _is_finished(steps[-1]):
        return "finish"
    return "max_steps" if len(steps) >= Limits().max_steps else "format"


def _is_finished(step: Step) -> bool:
    return step.action is not None and step.action.name == FINISH


def _parse_episode(traj: object) -> tuple[str, list[Step]]:
    """Question and steps of the text (Alpaca's frame, or plain) or of the chat messages of an episode."""
    if isinstance(traj, list):
        question, *turns = traj
        pairs = zip(turns[::2], turns[1::2], strict=True)
        return question["content"].strip(), [
            _parse_step(reply["content"], observation["content"]) for reply, observation in pairs
        ]
    if not isinstance(traj, str):
        raise TypeError(f"traj is {type(traj).__name__}, neither text nor messages")
    match = _ALPACA.fullmatch(traj) or _PLAIN.fullmatch(traj)
    if match is None:
        raise ValueError("its text has no question before the first thought")
    turns = [(turn["reply"] or turn["unanswered"], turn["observation"] or "") for turn in _TURN.finditer(match["body"])]
    return match["question"].strip(), [_parse_step(reply, observation) for reply, observation in turns if reply.strip()]


def _parse_step(reply: str, observation: str) -> Step:
    step = _RENDERER.parse(reply.strip())
    if _is_finished(step):  # the text after it is the reward, which no agent sees
        return step
    return replace(step, observation=observation.removeprefix("Observation:").strip())

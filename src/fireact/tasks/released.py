"""Reads a run as the paper's code stores it: one JSON object from a question's place to its answer, scores and text.

Invariant: each entry becomes one Trajectory with the scores that the run itself reported, or the file is refused with
a DataError that names the entry. The released code keeps only episodes that finished, and of the gold answer only its
normalised form, which is what the Example holds. Its text has no mark for where an observation ends: a line in
one that begins with "Thought:" is read as a step. What tokens and seconds were spent is not in the file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fireact.errors import DataError
from fireact.render.react import ReActRenderer
from fireact.types import FINISH, Example, Limits, Step, Stop, Trajectory, Usage

_NAME = re.compile(
    r"(?P<task>[a-z]+)_(?P<split>\w+?)_(?P<start>\d+)_(?P<end>\d+)_(?P<model>.+)_(?P<temperature>[\d.]+)_\d{4}(?:-\d\d){5}"
)
_ALPACA = re.compile(r".*?### Instruction:\n(?P<question>.*?)\n\n### Response:\n(?P<body>.*)", re.DOTALL)
_PLAIN = re.compile(r"(?P<question>.*?)\n(?P<body>Thought:.*)", re.DOTALL)
_TURN = re.compile(
    r"(?P<said>.+?)^Observation:(?P<heard>.*?)(?=^Thought:|\Z)|(?P<unheard>.+)", re.MULTILINE | re.DOTALL
)
"""What the LM said up to an observation (that may be two thoughts), and what it heard up to the next thought."""
_RENDERER = ReActRenderer()


def read_released_run(path: Path, *, task: str = "") -> Iterator[Trajectory]:
    """The episodes of a released evaluation file, in its order.

    Task, split and model are read off the file's name, which the released code gives them; ``task`` is for a file that
    was renamed. Ids are the split and the place in it, as those of the task's Examples.
    """
    about = _about(path, task)
    for key, entry in _entries(path).items():
        try:
            yield _trajectory(key, entry, about)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise DataError(f"{path}, entry {key!r}: not an episode of the released code ({error!r}).") from error


def _about(path: Path, task: str) -> dict[str, str]:
    match = _NAME.fullmatch(path.stem)
    return match.groupdict() if match else {"task": task or "unknown", "split": "", "model": path.stem}


def _entries(path: Path) -> Mapping[str, Any]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}. Check the path.") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON ({error}).") from error
    if not isinstance(entries, dict) or not all(isinstance(e, dict) and "traj" in e for e in entries.values()):
        raise DataError(f"{path} is not a run of the released code: one JSON object of entries, each with a 'traj'.")
    return entries


def _trajectory(key: str, entry: Mapping[str, Any], about: Mapping[str, str]) -> Trajectory:
    question, steps = _episode(entry["traj"])
    example = Example(f"{about['split']}-{key}" if about["split"] else key, question, _gold(entry["gt"]))
    reported = {name: float(entry[name]) for name in ("em", "f1") if name in entry}
    known = {name: entry[name] for name in ("reward", "pred") if name in entry}
    if "temperature" in about:
        known["temperature"] = float(about["temperature"])
    return Trajectory(
        task=about["task"],
        example=example,
        method="react",
        model=about["model"],
        seed=0,
        steps=tuple(steps),
        stop=_stop(steps),
        scores=reported,
        usage=Usage(cost=None),
        seconds=0.0,
        meta={"released": known},
    )


def _gold(value: object) -> str:
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)


def _stop(steps: Sequence[Step]) -> Stop:
    if steps and _finished(steps[-1]):
        return "finish"
    return "max_steps" if len(steps) >= Limits().max_steps else "format"


def _finished(step: Step) -> bool:
    return step.action is not None and step.action.name == FINISH


def _episode(traj: object) -> tuple[str, list[Step]]:
    """Question and steps of the text (Alpaca's frame, or plain) or of the chat messages of an episode."""
    if isinstance(traj, list):
        question, *turns = traj
        pairs = zip(turns[::2], turns[1::2], strict=True)
        return question["content"].strip(), [_step(said["content"], heard["content"]) for said, heard in pairs]
    if not isinstance(traj, str):
        raise TypeError(f"traj is {type(traj).__name__}, neither text nor messages")
    match = _ALPACA.fullmatch(traj) or _PLAIN.fullmatch(traj)
    if match is None:
        raise ValueError("its text has no question before the first thought")
    turns = [(turn["said"] or turn["unheard"], turn["heard"] or "") for turn in _TURN.finditer(match["body"])]
    return match["question"].strip(), [_step(said, heard) for said, heard in turns if said.strip()]


def _step(said: str, heard: str) -> Step:
    step = _RENDERER.parse(said.strip())
    if _finished(step):  # what follows is the reward, which no agent is shown
        return step
    return replace(step, observation=heard.removeprefix("Observation:").strip())

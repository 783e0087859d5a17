"""``recorded:RUN``: the tools of a run, which answer as they did in it.

RUN is a run directory, or a file of trajectories. A call gets the observation of the same recorded call: that of the
same question first, else that of any question. Any other call gets the observation of the nearest recorded call of the
same tool, by the character trigrams of the arguments.

Invariant: an answer depends only on the question, the call and the run, which ``fingerprint`` covers. Arguments are
the same when they differ only in their order, in the space around a value, or in whether a number is written as text.
Disturbed observations and those of calls that failed to parse are never given. Calls of models belong to
``call_cache``, searches without recorded calls of other tools to ``snippets``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self

from fireact.base import jsonl
from fireact.base.run_directory import TRAJECTORIES, file_hash, read_trajectories
from fireact.errors import ConfigError, DataError, ToolError
from fireact.types import FINISH, Step, Trajectory
from fireact.wire.schemas import (
    FINISH_NAMES,
    Schema,
    make_schema,
    normalise_schemas,
    schema_name,
    unwrap_schema,
)

PREFIX = "recorded:"
"""How the spec of these tools begins."""
MAX_CHARS = 2000
"""The characters of arguments by which the nearest call is found."""


@dataclass(frozen=True, slots=True)
class ReplayedCalls:
    """The recorded calls of a tool: the observation by question and arguments, and by arguments alone."""

    by_question: Mapping[tuple[str, str], str]
    by_arguments: Mapping[str, str]

    def find_nearest(self, arguments: str) -> str | None:
        """The observation of the recorded call with the most trigrams in common; None without recorded calls."""
        trigrams = _trigrams(arguments)
        nearest = max(self.by_arguments, key=lambda recorded: _similarity(trigrams, _trigrams(recorded)), default=None)
        return None if nearest is None else self.by_arguments[nearest]


class ReplayedTool:
    """A tool of a run, with its recorded calls. ``question`` is the task and id of the question that it is used for."""

    keeps_time = keeps_length = True

    def __init__(self, schema: Schema, calls: ReplayedCalls, fingerprint: str) -> None:
        function = unwrap_schema(schema)
        self.name = schema_name(schema)
        self.description = str(function.get("description") or "")
        self.parameters: Mapping[str, Any] = function.get("parameters") or {"type": "object", "properties": {}}
        self.fingerprint, self.question = fingerprint, ""
        self._calls = calls

    def for_episode(self, key: str, seed: int) -> Self:
        """The tool for a question: its own recorded calls come first."""
        tool = copy(self)
        tool.question = key
        return tool

    def is_recorded(self, **arguments: Any) -> bool:
        """Whether the run holds this very call."""
        return canonical_arguments(arguments) in self._calls.by_arguments

    @property
    def has_calls(self) -> bool:
        """Whether the run holds any call of the tool."""
        return bool(self._calls.by_arguments)

    def __call__(self, **arguments: Any) -> str:
        """The recorded observation. Raises ToolError, for the agent to read, where no call of the tool is recorded."""
        words = canonical_arguments(arguments)
        observation = self._calls.by_question.get((self.question, words), self._calls.by_arguments.get(words))
        observation = self._calls.find_nearest(words) if observation is None else observation
        if observation is None:
            raise ToolError(f"{self.name} has no recorded call.")
        return observation


def from_name(argument: str = "") -> list[ReplayedTool]:
    """The tools of ``recorded:RUN``. Raises ConfigError for a bad path, DataError where the run has no tools."""
    path = Path(argument).expanduser()
    file = path / TRAJECTORIES if path.is_dir() else path
    if not argument or not file.is_file():
        raise ConfigError(
            f"there is no run at {argument!r}. Give {PREFIX}RUN with a directory of 'fireact record' or 'collect', or "
            "a file of trajectories."
        )
    return build_replayed_tools(read_trajectories(path), source=str(path), fingerprint=f"recorded-{file_hash(file)}")


def build_replayed_tools(
    trajectories: Iterable[Trajectory], *, source: str, fingerprint: str = ""
) -> list[ReplayedTool]:
    """The tools of trajectories, with their schemas where these are recorded. Raises DataError where there are none."""
    schemas: dict[str, Schema] = {}
    by_question: dict[str, dict[tuple[str, str], str]] = {}
    by_arguments: dict[str, dict[str, str]] = {}
    argument_names: dict[str, list[tuple[str, ...]]] = {}
    for trajectory in trajectories:
        question = f"{trajectory.task}/{trajectory.example.id}"
        schemas |= {schema_name(schema): schema for schema in normalise_schemas(trajectory.meta.get("tools"))}
        for step in filter(_has_tool_result, trajectory.steps):
            assert step.action is not None and step.observation is not None
            name, words = step.action.name, canonical_arguments(step.action.arguments)
            by_question.setdefault(name, {}).setdefault((question, words), step.observation)
            by_arguments.setdefault(name, {}).setdefault(words, step.observation)
            argument_names.setdefault(name, []).append(tuple(step.action.arguments))
    inferred = {name: _infer_schema(name, calls) for name, calls in argument_names.items()}
    schemas = {**inferred, **schemas}
    names = [name for name in schemas if name not in FINISH_NAMES or name in by_arguments]
    if not names:
        raise DataError(f"{source} holds no tool and no call of one, so it has nothing to answer with.")
    return [
        ReplayedTool(schemas[name], ReplayedCalls(by_question.get(name, {}), by_arguments.get(name, {})), fingerprint)
        for name in names
    ]


def _has_tool_result(step: Step) -> bool:
    return step.action is not None and step.action.name != FINISH and step.observation is not None and not step.noise


def _infer_schema(name: str, calls: Sequence[tuple[str, ...]]) -> Schema:
    """A schema for a tool whose schema is not recorded: the arguments of its calls, of which all have the required."""
    properties: dict[str, Any] = {argument: {} for call in calls for argument in call}
    required = [argument for argument in properties if all(argument in call for call in calls)]
    return make_schema(name, "", {"type": "object", "properties": properties, "required": required})


def canonical_arguments(arguments: Mapping[str, Any]) -> str:
    """Arguments as one text: keys sorted, values other than tables and lists as text without space around them."""
    return json.dumps(_to_canonical(arguments), sort_keys=True, ensure_ascii=False)


def _to_canonical(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _to_canonical(member) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [_to_canonical(member) for member in value]
    return value.strip() if isinstance(value, str) else jsonl.dumps(value)


@cache
def _trigrams(text: str) -> frozenset[str]:
    padded = f"  {text[:MAX_CHARS].casefold()}  "
    return frozenset(padded[start : start + 3] for start in range(len(padded) - 2))


def _similarity(first: frozenset[str], second: frozenset[str]) -> float:
    """The Jaccard similarity of two sets, of which none is empty."""
    return len(first & second) / len(first | second)


@dataclass(frozen=True, slots=True)
class ReplayCounts:
    """Calls of recorded tools: all, those answered by the nearest recorded call, and those without any answer."""

    calls: int
    nearest: int
    unanswered: int

    def __str__(self) -> str:
        if not self.calls:
            return "no recorded tool was called"
        exact = self.calls - self.nearest - self.unanswered
        unanswered = f", {self.unanswered} without any recorded call of the tool" if self.unanswered else ""
        return (
            f"{exact} of {self.calls} calls of recorded tools were answered as recorded, {self.nearest} by the nearest "
            f"recorded call{unanswered}"
        )


def find_replayed_run(spec: str) -> str | None:
    """The RUN of a spec ``recorded:RUN``, also under noise; None for any other spec."""
    prefix, separator, path = f":{spec}".partition(f":{PREFIX}")
    return path if separator and (not prefix or prefix.startswith(":noise:")) else None


def count_replayed_calls(specs: Sequence[str], trajectories: Iterable[Trajectory]) -> ReplayCounts | None:
    """How the calls in trajectories of recorded tools were answered; None where no spec is of recorded tools."""
    runs = [run for run in map(find_replayed_run, specs) if run is not None]
    if not runs:
        return None
    replayed = {tool.name: tool for run in runs for tool in from_name(run)}
    actions = [step.action for trajectory in trajectories for step in trajectory.steps if step.action is not None]
    calls = [action for action in actions if action.name in replayed]
    missed = [action for action in calls if not replayed[action.name].is_recorded(**action.arguments)]
    nearest = sum(replayed[action.name].has_calls for action in missed)
    return ReplayCounts(len(calls), nearest, len(missed) - nearest)

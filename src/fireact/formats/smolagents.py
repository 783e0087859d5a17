"""smolagents' memory: what ``agent.memory.get_full_steps()`` (or ``get_succinct_steps()``) gives, as JSON.

Invariant: each task in a memory is an episode. ``final_answer`` is the finish action. A memory keeps one text for the
results of all calls of a step: it is split at its lines if there is one for each call, else it goes to the last call.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from fireact.formats.source import SourceFile, finish_step, import_trajectory
from fireact.render.messages import steps_from_messages
from fireact.types import FINISH, Action, Step, Trajectory, Usage
from fireact.wire.file_messages import content_text

_CODE = re.compile(r"(?:\n?Code:\s*+)?(?:<code>|```).*\Z", re.DOTALL)


def sniff(rows: Sequence[Any]) -> bool:
    """Whether the rows are steps of a memory, or hold such in ``steps``."""
    return bool(rows) and all(isinstance(row, dict) for row in rows) and _is_memory(_find_memory(rows[0]) or rows)


def read(source: SourceFile) -> Iterator[Trajectory]:
    """The episodes of a memory, or of one memory a row."""
    steps: list[Mapping[str, Any]] = []
    for number, row in source.rows():
        memory = _find_memory(row) if isinstance(row, Mapping) else None
        if memory is not None:
            yield from source.attempt(number, partial(_read_memory, source, memory)) or ()
        elif isinstance(row, Mapping):
            steps.append(row)
        else:
            source.report_unreadable(number, f"a step is an object, not {type(row).__name__}")
    yield from source.attempt(1, lambda: _read_memory(source, steps)) or ()


def _find_memory(row: Mapping[str, Any]) -> list[Mapping[str, Any]] | None:
    steps = row.get("steps")
    return steps if isinstance(steps, list) and "task" not in row and _is_memory(steps) else None


def _is_memory(steps: Sequence[Any]) -> bool:
    return any("task_images" in step or {"task"} == set(step) for step in steps if isinstance(step, dict)) and any(
        "step_number" in step or "plan" in step for step in steps if isinstance(step, dict)
    )


def _read_memory(source: SourceFile, memory: Sequence[Mapping[str, Any]]) -> list[Trajectory]:
    starts = [index for index, step in enumerate(memory) if "task" in step]
    return [
        _read_episode(source, str(memory[start]["task"]), memory[start + 1 : end])
        for start, end in zip(starts, [*starts, len(memory)][1:], strict=True)
    ]


def _read_episode(source: SourceFile, task: str, memory: Sequence[Mapping[str, Any]]) -> Trajectory:
    action_steps = [step for step in memory if "step_number" in step]
    usages = [step.get("token_usage") or {} for step in memory]
    system = next((text for step in action_steps for text in _system_prompts(step)), "")
    return import_trajectory(
        task,
        [step for memory_step in memory for step in _read_step(memory_step)],
        task=source.name,
        usage=Usage(
            calls=len(usages),
            prompt_tokens=sum(int(usage.get("input_tokens") or 0) for usage in usages),
            completion_tokens=sum(int(usage.get("output_tokens") or 0) for usage in usages),
            cost=None,
        ),
        seconds=sum(float((step.get("timing") or {}).get("duration") or 0.0) for step in memory),
        meta={"system": system},
    )


def _system_prompts(step: Mapping[str, Any]) -> Iterator[str]:
    for message in step.get("model_input_messages") or []:
        if message.get("role") == "system":
            yield content_text(message.get("content"))


def _read_step(memory_step: Mapping[str, Any]) -> list[Step]:
    if "plan" in memory_step:
        return [Step(str(memory_step["plan"]), None, None, str(memory_step["plan"]))]
    words = content_text(memory_step.get("model_output"))
    refused_message = memory_step.get("model_output_message") or {}  # calls that were refused are only there
    calls = memory_step.get("tool_calls") or refused_message.get("tool_calls") or []
    message = {"role": "assistant", "content": words, "tool_calls": calls}
    _, _, parsed_steps = steps_from_messages([message])
    steps = [_normalise_step(step) for step in parsed_steps]
    error = memory_step.get("error")
    observations = memory_step.get("observations")
    if error:
        observations = f"{observations or ''}\nError: {error.get('message', error)}".strip()
    steps = _with_observations(steps, observations)
    final = memory_step.get("action_output")
    if memory_step.get("is_final_answer") and not any(step.action and step.action.name == FINISH for step in steps):
        steps.append(finish_step(str(final), joined=True, text=""))
    return steps


def _normalise_step(step: Step) -> Step:
    action = step.action
    if action is None:
        return step
    thought = step.thought.removeprefix("Thought:").strip()
    if action.name == "python_interpreter":
        code = action.arguments.get("input", action.arguments.get("code", ""))
        action, thought = Action(action.name, {"code": code}), _CODE.sub("", thought).strip()
    elif action.name == "final_answer":
        action = Action(FINISH, {"answer": str(next(iter(action.arguments.values()), ""))})
    return Step(thought, action, None, step.text, joined=step.joined)


def _with_observations(steps: list[Step], observations: str | None) -> list[Step]:
    call_indices = [index for index, step in enumerate(steps) if step.action is None or step.action.name != FINISH]
    if observations is None or not call_indices:
        return steps
    lines = observations.split("\n")
    texts = lines if len(lines) == len(call_indices) else [None] * (len(call_indices) - 1) + [observations]
    observation_by_index = dict(zip(call_indices, texts, strict=True))
    return [
        Step(step.thought, step.action, observation_by_index.get(index), step.text, joined=step.joined)
        for index, step in enumerate(steps)
    ]

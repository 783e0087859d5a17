"""smolagents' memory: what ``agent.memory.get_full_steps()`` (or ``get_succinct_steps()``) gives, as JSON.

Invariant: each task in it is an episode. ``final_answer`` is the finish action. A memory keeps one text for the results
of all calls of a step: it is cut at its lines where there are as many, else it is the last call's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fireact.formats.source import Source, finish, imported
from fireact.render.messages import steps_from_messages, text_of
from fireact.types import FINISH, Action, Step, Trajectory, Usage

_CODE = re.compile(r"(?:\n?Code:)?\s*(?:<code>|```).*\Z", re.DOTALL)


def sniff(rows: Sequence[Any]) -> bool:
    """Whether the rows are steps of a memory, or hold such in ``steps``."""
    return bool(rows) and all(isinstance(row, dict) for row in rows) and _is_memory(_memory(rows[0]) or rows)


def read(source: Source) -> Iterator[Trajectory]:
    """The episodes of a memory, or of one memory a row."""
    bare: list[Mapping[str, Any]] = []
    for number, row in source.rows():
        memory = _memory(row) if isinstance(row, Mapping) else None
        if memory is not None:
            yield from _episodes(source, memory)
        elif isinstance(row, Mapping):
            bare.append(row)
        else:
            source.unreadable(number, f"a step is an object, not {type(row).__name__}")
    yield from _episodes(source, bare)


def _memory(row: Mapping[str, Any]) -> list[Mapping[str, Any]] | None:
    steps = row.get("steps")
    return steps if isinstance(steps, list) and "task" not in row and _is_memory(steps) else None


def _is_memory(steps: Sequence[Any]) -> bool:
    return any("task_images" in step or {"task"} == set(step) for step in steps if isinstance(step, dict)) and any(
        "step_number" in step or "plan" in step for step in steps if isinstance(step, dict)
    )


def _episodes(source: Source, memory: Sequence[Mapping[str, Any]]) -> Iterator[Trajectory]:
    starts = [at for at, step in enumerate(memory) if "task" in step]
    for start, end in zip(starts, [*starts, len(memory)][1:], strict=True):
        yield _episode(source, str(memory[start]["task"]), memory[start + 1 : end])


def _episode(source: Source, task: str, memory: Sequence[Mapping[str, Any]]) -> Trajectory:
    done = [step for step in memory if "step_number" in step]
    told = [step.get("token_usage") or {} for step in memory]
    system = next((text for step in done for text in _system(step)), "")
    return imported(
        task,
        [step for taken in memory for step in _steps(taken)],
        task=source.name,
        usage=Usage(
            calls=len(told),
            prompt_tokens=sum(int(usage.get("input_tokens") or 0) for usage in told),
            completion_tokens=sum(int(usage.get("output_tokens") or 0) for usage in told),
            cost=None,
        ),
        seconds=sum(float((step.get("timing") or {}).get("duration") or 0.0) for step in memory),
        meta={"system": system},
    )


def _system(step: Mapping[str, Any]) -> Iterator[str]:
    for message in step.get("model_input_messages") or []:
        if message.get("role") == "system":
            yield text_of(message.get("content"))


def _steps(taken: Mapping[str, Any]) -> list[Step]:
    if "plan" in taken:
        return [Step(str(taken["plan"]), None, None, str(taken["plan"]))]
    words = text_of(taken.get("model_output"))
    refused = taken.get("model_output_message") or {}  # calls that were refused stand there alone
    calls = taken.get("tool_calls") or refused.get("tool_calls") or []
    message = {"role": "assistant", "content": words, "tool_calls": calls}
    _, _, read = steps_from_messages([message])
    steps = [_named(step) for step in read]
    error = taken.get("error")
    heard = taken.get("observations")
    if error:
        heard = f"{heard or ''}\nError: {error.get('message', error)}".strip()
    steps = _heard(steps, heard)
    final = taken.get("action_output")
    if taken.get("is_final_answer") and not any(step.action and step.action.name == FINISH for step in steps):
        steps.append(finish(str(final), joined=True, text=""))
    return steps


def _named(step: Step) -> Step:
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


def _heard(steps: list[Step], heard: str | None) -> list[Step]:
    asked = [at for at, step in enumerate(steps) if step.action is None or step.action.name != FINISH]
    if heard is None or not asked:
        return steps
    lines = heard.split("\n")
    parts = lines if len(lines) == len(asked) else [None] * (len(asked) - 1) + [heard]
    found = dict(zip(asked, parts, strict=True))
    return [
        Step(step.thought, step.action, found.get(at), step.text, joined=step.joined) for at, step in enumerate(steps)
    ]

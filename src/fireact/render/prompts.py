"""The prompts in the package data: instructions of a method, and few-shot examples of a task.

    prompts/<method>.jinja           instructions, rendered with ``tools`` (``tools.jinja`` for native tool calling)
    prompts/judge.jinja              the prompt of an LM that judges answers
    prompts/<task>.<method>.jsonl    examples: {"question", "steps": [{"thought", "action", "observation"}]}

A fine-tuned student is run with neither.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files

import jinja2

from fireact.errors import ConfigError
from fireact.types import Action, Step, Task, Tool

TOOLLESS_METHODS = ("io", "cot")
"""The methods that use no tools."""
FEW_SHOT = 3
"""Examples in the prompt of an LM that was not fine-tuned, where the task has so many."""

PromptExample = tuple[str, tuple[Step, ...]]


def method_instructions(method: str, tools: Mapping[str, Tool], *, native: bool = False) -> str:
    """The instructions of a method for these tools, on a few lines; all methods that act in steps have ReAct's."""
    return fill_prompt(
        method if method in TOOLLESS_METHODS else "tools" if native else "react", tools=list(tools.values())
    )


def fill_prompt(name: str, **values: object) -> str:
    """A prompt of the package, ``prompts/NAME.jinja``, with its values filled in; a missing value is an error."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.policies["json.dumps_function"] = json.dumps  # plain JSON: the default escapes quotes for HTML
    source = files("fireact").joinpath("prompts", f"{name}.jinja")
    return environment.from_string(source.read_text(encoding="utf-8")).render(**values).strip()


def few_shot_examples(task: Task, method: str, count: int | None) -> Sequence[PromptExample]:
    """The first ``count`` few-shot examples of a task for a method; by default ``FEW_SHOT``, or as many as it has.

    A task brings its own as ``few_shot(method)``, a sequence of (question, steps). Otherwise they are those in the
    package under the task's ``prompts`` or name. Raises ConfigError when the task has fewer than ``count``.
    """
    few_shot = getattr(task, "few_shot", None)
    if few_shot is not None:
        examples = [(question, tuple(steps)) for question, steps in few_shot(method)]
    else:
        examples = packaged_examples(getattr(task, "prompts", task.name), method)
    if count is not None and count > len(examples):
        raise ConfigError(
            f"{task.name} has {len(examples)} few-shot examples for {method}; {count} were requested. Lower the "
            "number, or give the task few_shot(method), which returns more."
        )
    return examples[: FEW_SHOT if count is None else count]


def packaged_examples(name: str, method: str) -> list[PromptExample]:
    """The few-shot examples in the package under a name; none where there is no such file."""
    form = "cot" if method in TOOLLESS_METHODS else "react"
    source = files("fireact").joinpath("prompts", f"{name}.{form}.jsonl")
    rows = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()] if source.is_file() else []
    return [(row["question"], tuple(_parse_step(step) for step in row["steps"])) for row in rows]


def _parse_step(row: Mapping[str, object]) -> Step:
    action = row["action"]
    assert isinstance(action, dict)
    observation = row.get("observation")
    return Step(
        thought=str(row["thought"]),
        action=Action(action["name"], action["arguments"]),
        observation=None if observation is None else str(observation),
        text="",
    )

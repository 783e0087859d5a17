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
from fireact.types import Action, Step, Tool

TOOLLESS_METHODS = ("io", "cot")
"""The methods that use no tools."""

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


def few_shot_examples(task: str, method: str, count: int) -> Sequence[PromptExample]:
    """The first ``n`` few-shot examples of a task. Raises ConfigError when the package has fewer."""
    form = "cot" if method in TOOLLESS_METHODS else "react"
    source = files("fireact").joinpath("prompts", f"{task}.{form}.jsonl")
    rows = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()] if source.is_file() else []
    if count > len(rows):
        raise ConfigError(
            f"{task} has {len(rows)} few-shot examples for {form}; {count} were asked for. Use --examples."
        )
    return [(row["question"], tuple(_parse_step(step) for step in row["steps"])) for row in rows[:count]]


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

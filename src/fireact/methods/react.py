"""ReAct (Yao et al. 2022; paper, section 2): thought, action, observation, until the finish action.

Invariant: ``run`` yields a step as soon as its observation is known, and stops after a finish action. It counts nothing,
limits nothing and scores nothing: ``rollout`` does. ``ask`` and ``act`` are what the other methods share.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fireact.render.chat import Schema, schema
from fireact.render.messages import FINISH_SCHEMA, schemas
from fireact.render.react import ACTION, STOP, ReActRenderer
from fireact.types import FINISH, LM, Action, Message, Renderer, Step, Tool

EpisodeExample = tuple[str, Sequence[Step]]

REPAIR_TEMPERATURE = 0.7
"""An LM at temperature 0 would only say the same again."""


@dataclass(frozen=True, slots=True)
class ReAct:
    """Thoughts and actions, in text or as native tool calls (the renderer decides).

    ``instructions`` and ``examples`` are empty for a fine-tuned student. ``repairs`` is how often a completion without
    an action is asked for again.
    """

    instructions: str = ""
    examples: Sequence[EpisodeExample] = ()
    renderer: Renderer = field(default_factory=ReActRenderer)
    repairs: int = 0
    name: str = "react"

    def run(self, question: str, lm: LM, tools: Mapping[str, Tool], seed: int) -> Iterator[Step]:
        steps: list[Step] = []
        while not (steps and finished(steps[-1])):
            for step in ask(
                lm, self.asked(question, steps), renderer=self.renderer, tools=tools, seed=seed, repairs=self.repairs
            ):
                steps.append(act(step, tools))
                yield steps[-1]
                if finished(step):
                    return

    def asked(self, question: str, steps: Sequence[Step]) -> list[Message]:
        """The messages that ask for what follows ``steps``."""
        return self.renderer.prompt(question, steps, instructions=self.instructions, examples=self.examples)


@dataclass(frozen=True, slots=True)
class Finish:
    """The finish action as a tool, for native tool calling; calling it ends the episode, so it never runs."""

    name: str = FINISH
    description: str = FINISH_SCHEMA["function"]["description"]
    parameters: Mapping[str, Any] = field(default_factory=lambda: FINISH_SCHEMA["function"]["parameters"])

    def __call__(self, **arguments: Any) -> str:
        return ""


def ask(
    lm: LM, messages: Sequence[Message], *, renderer: Renderer, tools: Mapping[str, Tool], seed: int, repairs: int
) -> list[Step]:
    """The step that the LM writes next (several where it makes several native calls at once), with no observation yet.

    A completion without an action is asked for up to ``repairs`` times more, then for its action alone, as in the
    paper's released code; the step says how often.
    """
    shown = tools_shown(renderer, tools)
    steps = renderer.read(lm.complete(messages, stop=stops(renderer), seed=seed, tools=shown))
    if steps[0].action is not None or not repairs:
        return steps
    for attempt in range(1, repairs + 1):
        completion = lm.complete(
            messages, stop=stops(renderer), seed=seed + attempt, tools=shown, temperature=REPAIR_TEMPERATURE
        )
        again = renderer.read(completion)
        if again[0].action is not None:
            return [replace(again[0], repairs=attempt), *again[1:]]
    return [replace(_action_alone(lm, messages, step=steps[0], renderer=renderer, seed=seed), repairs=repairs + 1)]


def tools_shown(renderer: Renderer, tools: Mapping[str, Tool]) -> Sequence[Tool]:
    """What the LM is shown where its actions are native calls, finish among them; nothing where they are text."""
    return (*tools.values(), Finish()) if renderer.native else ()


def schemas_shown(own: Sequence[Schema]) -> tuple[Schema, ...]:
    """Schemas that an episode brings, as the LM is shown them where its actions are native calls: finish among them."""
    ends = any(one["function"]["name"].lower() == FINISH for one in schemas(own))
    return tuple(own) if ends else (*own, schema(Finish()))


def stops(renderer: Renderer) -> Sequence[str]:
    """The strings at which the LM is stopped: an action in text ends where the observation would begin."""
    return () if renderer.native else STOP


def _action_alone(lm: LM, messages: Sequence[Message], *, step: Step, renderer: Renderer, seed: int) -> Step:
    """The step with the action that the LM names when it is shown its thought and asked for nothing else."""
    thought = step.thought.split("\n", 1)[0].strip()
    request = f"Write the action for this thought and nothing else, on one line that begins with {ACTION}"
    asked = [*messages, Message("assistant", f"Thought: {thought}"), Message("user", request)]
    text = lm.complete(asked, stop=("\n",), seed=seed).text.strip()
    action = renderer.parse(text if text.startswith(ACTION) else f"{ACTION} {text}").action
    return step if action is None else replace(step, thought=thought, action=action, text=f"Thought: {thought}\n{text}")


def finished(step: Step) -> bool:
    return step.action is not None and step.action.name == FINISH


def act(step: Step, tools: Mapping[str, Tool]) -> Step:
    """The step with its observation: of the tool, or of what was wrong with the action; none after finish."""
    if finished(step):
        return step
    said = _observe(step.action, tools)
    return replace(step, observation=str(said), noise=getattr(said, "noise", None))


def _observe(action: Action | None, tools: Mapping[str, Tool]) -> str:
    allowed = ", ".join(f"{name}[...]" for name in [*tools, FINISH])
    if action is None:
        return f"No action found. Write one line that begins with {ACTION} and is one of {allowed}."
    tool = tools.get(action.name)
    if tool is None:
        return f"Unknown action {action.name}. Use one of {allowed}."
    names = list(tool.parameters.get("properties", {}))
    required = list(tool.parameters.get("required", ()))
    arguments = _named(action.arguments, names, required)
    if not set(arguments) <= set(names) or not set(required) <= set(arguments):
        said = f"{tool.name} takes {', '.join(names) or 'nothing'}; it was given {', '.join(arguments) or 'nothing'}."
        several = json.dumps(dict.fromkeys(required or names, "..."), ensure_ascii=False)
        return f"{said} Write {tool.name}[{several}]." if len(names) > 1 else said
    return tool(**arguments)


def _named(arguments: Mapping[str, Any], names: Sequence[str], required: Sequence[str]) -> dict[str, Any]:
    """The arguments of a call; a text without a name goes to the only parameter, or to the only one that must be given."""
    unnamed = [name for name in arguments if name in ("input", "query") and name not in names]
    sole = names if len(names) == 1 else required
    if len(arguments) != 1 or not unnamed:
        return dict(arguments)
    text = arguments[unnamed[0]]
    if len(sole) == 1:
        return {sole[0]: text}
    return {} if not names and text == "" else dict(arguments)

"""ReAct (Yao et al. 2022; paper, section 2): thought, action, observation, until the finish action.

Invariant: ``run`` yields a step as soon as its observation is known, and stops after a finish action. It counts,
limits and scores nothing: ``rollout.episodes`` does. The other methods share ``request_steps`` and ``execute_action``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fireact.render.react import ACTION, STOP, ReActRenderer
from fireact.types import FINISH, LM, Action, Call, Message, Renderer, Step, Tool
from fireact.wire.schemas import FINISH_SCHEMA, Schema, normalise_schemas, schema_name, tool_schema, unwrap_schema

EpisodeExample = tuple[str, Sequence[Step]]

REPAIR_TEMPERATURE = 0.7
"""At temperature 0 an LM would only repeat its completion."""


@dataclass(frozen=True, slots=True)
class ReAct:
    """Thoughts and actions, in text or as native tool calls (the renderer decides).

    ``instructions`` and ``examples`` are empty for a fine-tuned student. ``repairs`` is how often a completion without
    an action is requested again.
    """

    instructions: str = ""
    examples: Sequence[EpisodeExample] = ()
    renderer: Renderer = field(default_factory=ReActRenderer)
    repairs: int = 0
    name: str = "react"

    def run(self, question: str, lm: LM, tools: Mapping[str, Tool], seed: int) -> Iterator[Step]:
        steps: list[Step] = []
        while not (steps and is_finished(steps[-1])):
            for step in request_steps(
                lm,
                self.prompt_messages(question, steps),
                renderer=self.renderer,
                tools=tools,
                seed=seed,
                repairs=self.repairs,
            ):
                steps.append(execute_action(step, tools))
                yield steps[-1]
                if is_finished(step):
                    return

    def prompt_messages(self, question: str, steps: Sequence[Step]) -> list[Message]:
        """The prompt for the step after ``steps``."""
        return self.renderer.prompt(question, steps, instructions=self.instructions, examples=self.examples)


@dataclass(frozen=True, slots=True)
class FinishTool:
    """The finish action as a tool, for native tool calling; calling it ends the episode, so it never runs."""

    name: str = FINISH
    description: str = unwrap_schema(FINISH_SCHEMA)["description"]
    parameters: Mapping[str, Any] = field(default_factory=lambda: unwrap_schema(FINISH_SCHEMA)["parameters"])

    def __call__(self, **arguments: Any) -> str:
        return ""


def request_steps(
    lm: LM, messages: Sequence[Message], *, renderer: Renderer, tools: Mapping[str, Tool], seed: int, repairs: int
) -> list[Step]:
    """The LM's next step, without its observation; several steps where it makes several native calls at once.

    A completion without an action is requested up to ``repairs`` times more. Then the LM is asked for the action
    alone, as in the paper's released code. The step stores the number of repairs.
    """
    call = Call(messages, offered_tools(renderer, tools), stop=stop_strings(renderer), seed=seed)
    steps = renderer.read(lm.complete(call))
    if steps[0].action is not None or not repairs:
        return steps
    for attempt in range(1, repairs + 1):
        completion = lm.complete(replace(call, seed=seed + attempt, temperature=REPAIR_TEMPERATURE))
        repaired_steps = renderer.read(completion)
        if repaired_steps[0].action is not None:
            return [replace(repaired_steps[0], repairs=attempt), *repaired_steps[1:]]
    return [replace(_request_action(lm, messages, step=steps[0], renderer=renderer, seed=seed), repairs=repairs + 1)]


def offered_tools(renderer: Renderer, tools: Mapping[str, Tool]) -> Sequence[Tool]:
    """The tools for native tool calls, finish among them; none where actions are text.

    A renderer of a recorded agent ``offered`` what that agent offers, without finish.
    """
    if getattr(renderer, "ends_itself", False):
        offered: Sequence[Tool] | None = getattr(renderer, "offered", None)
        return tuple(tools.values()) if offered is None else offered
    return (*tools.values(), FinishTool()) if renderer.native else ()


def offered_schemas(own_schemas: Sequence[Schema]) -> tuple[Schema, ...]:
    """The schemas of an episode for native tool calls, with finish added where it is missing."""
    ends = any(schema_name(schema).lower() == FINISH for schema in normalise_schemas(own_schemas))
    return tuple(own_schemas) if ends else (*own_schemas, tool_schema(FinishTool()))


def stop_strings(renderer: Renderer) -> Sequence[str]:
    """The stop strings of a call: a text action ends where the observation would begin."""
    return () if renderer.native else STOP


def _request_action(lm: LM, messages: Sequence[Message], *, step: Step, renderer: Renderer, seed: int) -> Step:
    """The step with an action from a second call, which shows the LM its thought and asks for the action alone."""
    thought = step.thought.split("\n", 1)[0].strip()
    request = f"Write the action for this thought and nothing else, on one line that begins with {ACTION}"
    action_prompt = [*messages, Message("assistant", f"Thought: {thought}"), Message("user", request)]
    text = lm.complete(Call(action_prompt, stop=("\n",), seed=seed)).text.strip()
    action = renderer.parse(text if text.startswith(ACTION) else f"{ACTION} {text}").action
    return step if action is None else replace(step, thought=thought, action=action, text=f"Thought: {thought}\n{text}")


def is_finished(step: Step) -> bool:
    return step.action is not None and step.action.name == FINISH


def execute_action(step: Step, tools: Mapping[str, Tool]) -> Step:
    """The step with its observation: the tool's answer, or what is wrong with the action; none after finish."""
    if is_finished(step):
        return step
    observation = _call_tool(step.action, tools)
    return replace(step, observation=str(observation), noise=getattr(observation, "noise", None))


def _call_tool(action: Action | None, tools: Mapping[str, Tool]) -> str:
    allowed = ", ".join(f"{name}[...]" for name in [*tools, FINISH])
    if action is None:
        return f"No action found. Write one line that begins with {ACTION} and is one of {allowed}."
    tool = tools.get(action.name)
    if tool is None:
        return f"Unknown action {action.name}. Use one of {allowed}."
    names = list(tool.parameters.get("properties", {}))
    required = list(tool.parameters.get("required", ()))
    arguments = _name_arguments(action.arguments, names, required)
    if not set(arguments) <= set(names) or not set(required) <= set(arguments):
        mistake = (
            f"{tool.name} takes {', '.join(names) or 'nothing'}; it was given {', '.join(arguments) or 'nothing'}."
        )
        several = json.dumps(dict.fromkeys(required or names, "..."), ensure_ascii=False)
        return f"{mistake} Write {tool.name}[{several}]." if len(names) > 1 else mistake
    return tool(**arguments)


def _name_arguments(arguments: Mapping[str, Any], names: Sequence[str], required: Sequence[str]) -> dict[str, Any]:
    """The arguments of a call; a text without a name goes to the only parameter, or to the only required one."""
    unnamed = [name for name in arguments if name in ("input", "query") and name not in names]
    sole = names if len(names) == 1 else required
    if len(arguments) != 1 or not unnamed:
        return dict(arguments)
    text = arguments[unnamed[0]]
    if len(sole) == 1:
        return {sole[0]: text}
    return {} if not names and text == "" else dict(arguments)

"""ReAct (Yao et al. 2022; paper, section 2): thought, action, observation, until the finish action.

Invariant: ``run`` yields a step as soon as its observation is known, and stops after a finish action. It counts nothing,
limits nothing and scores nothing: ``rollout`` does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from fireact.render.react import STOP, ReActRenderer
from fireact.types import FINISH, LM, Renderer, Step, Tool

EpisodeExample = tuple[str, Sequence[Step]]


@dataclass(frozen=True, slots=True)
class ReAct:
    """Thought and action in text; ``instructions`` and ``examples`` are empty for a fine-tuned student."""

    instructions: str = ""
    examples: Sequence[EpisodeExample] = ()
    renderer: Renderer = field(default_factory=ReActRenderer)
    name: str = "react"

    def run(self, question: str, lm: LM, tools: Mapping[str, Tool], seed: int) -> Iterator[Step]:
        steps: list[Step] = []
        while not (steps and finished(steps[-1])):
            messages = self.renderer.prompt(question, steps, instructions=self.instructions, examples=self.examples)
            text = lm.complete(messages, stop=STOP, seed=seed).text
            steps.append(act(self.renderer.parse(text), tools))
            yield steps[-1]


def finished(step: Step) -> bool:
    return step.action is not None and step.action.name == FINISH


def act(step: Step, tools: Mapping[str, Tool]) -> Step:
    """The step with its observation: of the tool, or of what was wrong with the action; none after finish."""
    if finished(step):
        return step
    return replace(step, observation=_observe(step, tools))


def _observe(step: Step, tools: Mapping[str, Tool]) -> str:
    allowed = ", ".join(f"{name}[...]" for name in [*tools, FINISH])
    if step.action is None:
        return f"No action found. Write one line that begins with Action: and is one of {allowed}."
    tool = tools.get(step.action.name)
    if tool is None:
        return f"Unknown action {step.action.name}. Use one of {allowed}."
    arguments = dict(step.action.arguments)
    names = list(tool.parameters.get("properties", {}))
    if set(arguments) == {"input"} and len(names) == 1:
        arguments = {names[0]: arguments["input"]}
    if not set(arguments) <= set(names) or not set(tool.parameters.get("required", ())) <= set(arguments):
        return f"{tool.name} takes {', '.join(names)}; it was given {', '.join(arguments) or 'nothing'}."
    return tool(**arguments)

"""Reflexion as the paper simplifies it (section 3.2): ReAct in which the LM is asked to reflect at set steps.

The reflection becomes part of the next thought, so a trajectory has ReAct's form. The LM never learns whether an
answer was right; it reflects on an episode that has not finished.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from fireact.methods.react import EpisodeExample, execute_action, is_finished, request_steps
from fireact.render.react import REFLECT, REFLECTION, ReActRenderer
from fireact.types import LM, Call, Limits, Message, Renderer, Step, Tool


@dataclass(frozen=True, slots=True)
class Reflexion:
    """ReAct with a reflection before each step of ``reflect_at`` (steps count from 1)."""

    instructions: str = ""
    examples: Sequence[EpisodeExample] = ()
    renderer: Renderer = field(default_factory=ReActRenderer)
    reflect_at: tuple[int, ...] = Limits().reflect_at
    repairs: int = 0
    name: str = "reflexion"

    def run(self, question: str, lm: LM, tools: Mapping[str, Tool], seed: int) -> Iterator[Step]:
        steps: list[Step] = []
        while not (steps and is_finished(steps[-1])):
            messages = self.renderer.prompt(question, steps, instructions=self.instructions, examples=self.examples)
            reflection = self._reflect(messages, lm, seed) if steps and len(steps) + 1 in self.reflect_at else ""
            if reflection:
                messages = _with_paragraph(messages, f"{REFLECTION} {reflection}")
            next_steps = request_steps(
                lm, messages, renderer=self.renderer, tools=tools, seed=seed, repairs=self.repairs
            )
            next_steps[0] = replace(next_steps[0], thought=f"{reflection} {next_steps[0].thought}".strip())
            for step in next_steps:
                steps.append(execute_action(step, tools))
                yield steps[-1]
                if is_finished(step):
                    return

    def _reflect(self, messages: Sequence[Message], lm: LM, seed: int) -> str:
        request = f"{REFLECT} the question is still open. Say in one sentence what went wrong and what to try next."
        text = lm.complete(Call(_with_paragraph(messages, request), stop=("\n",), seed=seed)).text
        return text.strip().removeprefix(REFLECTION).strip()


def _with_paragraph(messages: Sequence[Message], paragraph: str) -> list[Message]:
    """The messages with a paragraph added to the last user message; after a tool's message it is a new one."""
    *earlier_messages, last_message = messages
    if last_message.role != "user":
        return [*messages, Message("user", paragraph)]
    return [*earlier_messages, replace(last_message, content=f"{last_message.content}\n\n{paragraph}")]

"""Reflexion as the paper simplifies it (section 3.2): ReAct in which the LM is asked to reflect at set rounds.

The reflection becomes part of the next thought, so a trajectory has ReAct's form. The LM never learns whether an
answer was right; it reflects on an episode that has not finished.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from fireact.methods.react import EpisodeExample, act, ask, finished
from fireact.render.react import REFLECT, REFLECTION, ReActRenderer
from fireact.types import LM, Limits, Message, Renderer, Step, Tool


@dataclass(frozen=True, slots=True)
class Reflexion:
    """ReAct with a reflection before each round of ``reflect_at`` (rounds count from 1)."""

    instructions: str = ""
    examples: Sequence[EpisodeExample] = ()
    renderer: Renderer = field(default_factory=ReActRenderer)
    reflect_at: tuple[int, ...] = Limits().reflect_at
    repairs: int = 0
    name: str = "reflexion"

    def run(self, question: str, lm: LM, tools: Mapping[str, Tool], seed: int) -> Iterator[Step]:
        steps: list[Step] = []
        while not (steps and finished(steps[-1])):
            messages = self.renderer.prompt(question, steps, instructions=self.instructions, examples=self.examples)
            reflection = self._reflect(messages, lm, seed) if steps and len(steps) + 1 in self.reflect_at else ""
            if reflection:
                messages = _with(messages, f"{REFLECTION} {reflection}")
            found = ask(lm, messages, renderer=self.renderer, tools=tools, seed=seed, repairs=self.repairs)
            found[0] = replace(found[0], thought=f"{reflection} {found[0].thought}".strip())
            for step in found:
                steps.append(act(step, tools))
                yield steps[-1]
                if finished(step):
                    return

    def _reflect(self, messages: Sequence[Message], lm: LM, seed: int) -> str:
        request = f"{REFLECT} the question is still open. Say in one sentence what went wrong and what to try next."
        text = lm.complete(_with(messages, request), stop=("\n",), seed=seed).text
        return text.strip().removeprefix(REFLECTION).strip()


def _with(messages: Sequence[Message], paragraph: str) -> list[Message]:
    """The messages with a paragraph more at the end of the user's last one; a tool's message is left as it is."""
    *rest, last = messages
    if last.role != "user":
        return [*messages, Message("user", paragraph)]
    return [*rest, replace(last, content=f"{last.content}\n\n{paragraph}")]

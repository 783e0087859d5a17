"""IO: the answer alone, with neither a thought nor a tool (the paper's plainest prompt, section 3.2).

Its one step is a finish action without a thought; a thought that the LM writes in spite of the prompt is dropped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from fireact.methods.react import EpisodeExample, request_steps
from fireact.render.react import ReActRenderer
from fireact.types import LM, Renderer, Step, Tool


@dataclass(frozen=True, slots=True)
class IO:
    """One completion with the finish action; the prompt shows the examples without their thoughts."""

    instructions: str = ""
    examples: Sequence[EpisodeExample] = ()
    renderer: Renderer = field(default_factory=ReActRenderer)
    repairs: int = 0
    name: str = "io"

    def run(self, question: str, lm: LM, tools: Mapping[str, Tool], seed: int) -> Iterator[Step]:
        answers = [(question, (replace(steps[-1], thought="", text=""),)) for question, steps in self.examples]
        messages = self.renderer.prompt(question, instructions=self.instructions, examples=answers)
        step = request_steps(lm, messages, renderer=self.renderer, tools={}, seed=seed, repairs=self.repairs)[0]
        yield step if step.action is None else replace(step, thought="")

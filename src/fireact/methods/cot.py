"""Chain of thought (Wei et al. 2022; paper, section 3.2): one thought, then the answer, no tool.

Its one step has ReAct's form (a thought and a finish action), which is how the paper mixes CoT data with ReAct data.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from fireact.methods.react import EpisodeExample, request_steps
from fireact.render.react import ReActRenderer
from fireact.types import LM, Renderer, Step, Tool


@dataclass(frozen=True, slots=True)
class CoT:
    """One completion: a thought and a finish action; tools are never called."""

    instructions: str = ""
    examples: Sequence[EpisodeExample] = ()
    renderer: Renderer = field(default_factory=ReActRenderer)
    repairs: int = 0
    name: str = "cot"

    def run(self, question: str, lm: LM, tools: Mapping[str, Tool], seed: int) -> Iterator[Step]:
        messages = self.renderer.prompt(question, instructions=self.instructions, examples=self.examples)
        yield request_steps(lm, messages, renderer=self.renderer, tools={}, seed=seed, repairs=self.repairs)[0]

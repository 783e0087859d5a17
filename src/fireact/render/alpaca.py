"""The ``alpaca`` renderer: the text of the paper's released code, one instruction and one growing response, no chat.

    Below is an instruction ... ### Instruction: the question ### Response:
    Thought: ...
    Action: search[...]
    Observation: ...

The student's chat template is not used; ``template`` takes its place and only puts the texts together. A turn ends where
``Observation:`` begins; the student learns to write that mark, and inference stops at it. Invariant: the text of a
sample, and of ``export``, is the released files' text byte for byte. What the released code trains on besides, the
observations and the closing line, is not trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fireact.render.react import OBSERVATION, ReActRenderer, call, written_by_student
from fireact.types import FINISH, Completion, Message, Step, Trajectory

INTRODUCTION = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request."
)


class AlpacaRenderer:
    """Renders and parses text ReAct as the released Alpaca files have it (paper, appendix; stanford_alpaca's prompt)."""

    name = "alpaca"
    native = False
    ends = (f"\n{OBSERVATION}",)
    template = (
        "{% for message in messages %}"
        "{% if message['role'] == 'assistant' %}{{ message['content'] + '\nObservation:' }}"
        "{% elif message['content'].startswith('Observation:') %}{{ message['content'][12:] + '\n' }}"
        "{% elif loop.first %}{{ message['content'] + '\n' }}"
        "{% else %}{{ ' ' + message['content'] + '\n' }}{% endif %}"
        "{% endfor %}"
    )

    def prompt(
        self,
        question: str,
        steps: Sequence[Step] = (),
        *,
        instructions: str = "",
        examples: Sequence[tuple[str, Sequence[Step]]] = (),
    ) -> list[Message]:
        """The messages that ask for step ``len(steps)``; instructions and examples are part of the instruction."""
        shown = [f"{example}\n{response(done)}".rstrip("\n") for example, done in examples]
        instruction = "\n\n".join([part for part in (instructions, *shown) if part] + [question])
        return _episode(instruction, steps, goes_on=True)

    def parse(self, text: str) -> Step:
        """Read one completion, as the ``react`` renderer does."""
        return ReActRenderer().parse(text)

    def read(self, completion: Completion) -> list[Step]:
        """The one step of a completion."""
        return [self.parse(completion.text)]

    def sample(self, trajectory: Trajectory) -> list[Message]:
        """A trajectory as training messages; nothing follows the student's last turn."""
        messages = _episode(trajectory.example.question, trajectory.steps)
        return messages if messages[-1].role == "assistant" else messages[:-1]

    def export(self, trajectory: Trajectory) -> dict[str, Any]:
        """A row of a released file; an episode that finished with a known score is closed with the line that tells it."""
        closing = closing_of(trajectory)
        text = response(trajectory.steps) + ("" if closing is None else f"{OBSERVATION} {closing}\n")
        return {"instruction": trajectory.example.question, "input": "", "output": text}


def closing_of(trajectory: Trajectory) -> str | None:
    """What the environment says at the end of an episode: nothing where it did not finish or has no exact match."""
    steps = trajectory.steps
    ended = bool(steps) and steps[-1].action is not None and steps[-1].action.name == FINISH
    if not ended or steps[-1].observation is not None or trajectory.scores.get("em") not in (0.0, 1.0):
        return None
    return f"Episode finished, reward = {trajectory.scores['em'] == 1.0}"


def response(steps: Sequence[Step]) -> str:
    """The steps as a response: every line ends in a newline."""
    lines = [part for step in steps for part in (turn(step), _observed(step)) if part]
    return "".join(f"{line}\n" for line in lines)


def turn(step: Step) -> str:
    """A step as the student writes it: its own words where it has no action, and what it thought where it has none of these."""
    if step.action is None:
        return step.text.strip() or (f"Thought: {step.thought}" if step.thought else "")
    action = f"Action: {call(step.action)}"
    return f"Thought: {step.thought}\n{action}" if step.thought else action


def _observed(step: Step) -> str:
    return "" if step.observation is None else f"{OBSERVATION} {step.observation}"


def _episode(instruction: str, steps: Sequence[Step], *, goes_on: bool = False) -> list[Message]:
    messages = [Message("user", f"{INTRODUCTION}\n\n### Instruction:\n{instruction}\n\n### Response:")]
    for at, step in enumerate(steps, 1):
        messages.append(written_by_student(turn(step), step))
        if step.observation is not None or goes_on or at < len(steps):  # an empty one, as in ``react``
            messages.append(Message("user", _observed(step) or OBSERVATION))
    return messages

"""The ``alpaca`` renderer: the text of the paper's released code, one instruction and one growing response, no chat.

    Below is an instruction ... ### Instruction: the question ### Response:
    Thought: ...
    Action: search[...]
    Observation: ...

``template`` replaces the student's chat template and only joins the texts. A turn ends where ``Observation:`` begins;
the student learns to write that mark, and inference stops at it. Invariant: the text of a sample, and of ``export``,
equals the released files' text byte for byte. The observations and the closing line are not trained, unlike in the
released code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fireact.render.react import OBSERVATION, ReActRenderer, is_unspoken, render_call, student_message
from fireact.types import FINISH, Completion, Message, Step, Trajectory

INTRODUCTION = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request."
)


class AlpacaRenderer:
    """Renders and parses text ReAct as in the released Alpaca files (paper, appendix; stanford_alpaca's prompt)."""

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
        example_texts = [
            f"{example}\n{render_response(example_steps)}".rstrip("\n") for example, example_steps in examples
        ]
        instruction = "\n\n".join([paragraph for paragraph in (instructions, *example_texts) if paragraph] + [question])
        return _render_episode(instruction, steps, goes_on=True)

    def parse(self, text: str) -> Step:
        """Read one completion, as the ``react`` renderer does."""
        return ReActRenderer().parse(text)

    def read(self, completion: Completion) -> list[Step]:
        """The one step of a completion."""
        return [self.parse(completion.text)]

    def sample(self, trajectory: Trajectory) -> list[Message]:
        """A trajectory as training messages; nothing follows the student's last turn."""
        messages = _render_episode(trajectory.example.question, trajectory.steps)
        return messages if messages[-1].role == "assistant" else messages[:-1]

    def export(self, trajectory: Trajectory) -> dict[str, Any]:
        """A row of a released file; a finished episode with a known score ends with a line that tells the score."""
        closing = closing_line(trajectory)
        text = render_response(trajectory.steps) + ("" if closing is None else f"{OBSERVATION} {closing}\n")
        return {"instruction": trajectory.example.question, "input": "", "output": text}


def closing_line(trajectory: Trajectory) -> str | None:
    """The last line of a finished episode, which tells its reward; None where it did not finish or has no EM."""
    steps = trajectory.steps
    ended = bool(steps) and steps[-1].action is not None and steps[-1].action.name == FINISH
    if not ended or steps[-1].observation is not None or trajectory.scores.get("em") not in (0.0, 1.0):
        return None
    return f"Episode finished, reward = {trajectory.scores['em'] == 1.0}"


def render_response(steps: Sequence[Step]) -> str:
    """The steps as a response; every line ends in a newline."""
    lines = [line for step in steps for line in (render_alpaca_turn(step), _render_observation(step)) if line]
    return "".join(f"{line}\n" for line in lines)


def render_alpaca_turn(step: Step) -> str:
    """A step as the student writes it. Without an action it is the text of the step, or else its thought."""
    if step.action is None:
        return step.text.strip() or (f"Thought: {step.thought}" if step.thought.strip() else "")
    action = f"Action: {render_call(step.action)}"
    return f"Thought: {step.thought}\n{action}" if step.thought else action


def _render_observation(step: Step) -> str:
    return "" if step.observation is None else f"{OBSERVATION} {step.observation}"


def _render_episode(instruction: str, steps: Sequence[Step], *, goes_on: bool = False) -> list[Message]:
    messages = [Message("user", f"{INTRODUCTION}\n\n### Instruction:\n{instruction}\n\n### Response:")]
    for step_number, step in enumerate(steps, 1):
        if not is_unspoken(step):
            messages.append(student_message(render_alpaca_turn(step), step))
        # As in ``react``: a missing observation before another step becomes an empty one.
        if step.observation is not None or goes_on or step_number < len(steps):
            messages.append(Message("user", _render_observation(step) or OBSERVATION))
    return messages

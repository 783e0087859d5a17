"""Steps and whole trajectories, as a person reads them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from fireact.render.react import OBSERVATION, call
from fireact.types import Step, Trajectory

if TYPE_CHECKING:
    pass
from fireact.terminal.screen import RESULT


def print_step(step: Step) -> None:
    """One step as it comes: the thought, the action and the observation told apart by colour."""
    if step.action is None:
        RESULT.print(escape(step.text.strip()), style="red")
    else:
        if step.thought:
            RESULT.print(f"[cyan]Thought:[/] {escape(step.thought)}")
        RESULT.print(f"[bold green]Action:[/] {escape(call(step.action))}")
    if step.observation is not None:
        RESULT.print(f"[dim]Observation: {escape(step.observation)}[/]")


class Speech:
    """Prints an episode as it is told, piece by piece; thought, action and observation are told apart by colour."""

    labels: Mapping[str, str] = {"Thought:": "cyan", "Action:": "bold green", OBSERVATION: "dim"}

    def __init__(self, console: Console = RESULT) -> None:
        self._console = console
        self._held, self._style, self._within = "", "", False

    def __call__(self, piece: str) -> None:
        for part in re.findall(r"[^\n]*\n|[^\n]+", piece):
            self._held += part
            if self._within or not self._may_become_a_label():
                self._print()
                self._within = not part.endswith("\n")

    def _may_become_a_label(self) -> bool:
        return any(label != self._held and label.startswith(self._held) for label in self.labels)

    def _print(self) -> None:
        label = next((one for one in self.labels if not self._within and self._held.startswith(one)), "")
        if label:
            self._console.out(label, style=self.labels[label], end="")
            self._style = self.labels[label] if label == OBSERVATION else ""
        self._console.out(self._held.removeprefix(label), style=self._style, end="")
        self._held = ""


def print_trajectory(trajectory: Trajectory) -> None:
    """A whole episode: what was asked, each step, and how it ended."""
    RESULT.rule(escape(f"{trajectory.key}  {trajectory.model}"), align="left")
    RESULT.print(f"[bold]Question:[/] {escape(trajectory.example.question)}")
    for step in trajectory.steps:
        print_step(step)
    scores = ", ".join(f"{name} {value:.2f}" for name, value in trajectory.scores.items()) or "not scored"
    RESULT.print(
        f"[bold]Ended:[/] {trajectory.stop}, {scores}; gold answer: {escape(trajectory.example.answer)}"
        + (f"; fault: {escape(trajectory.error)}" if trajectory.error else "")
    )
